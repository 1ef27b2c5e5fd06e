"""Folders that data sets of the field have: where the images and labels of each split are, and what the labels mean."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from training.data.description import Description, Folders, Format
from training.data.known_categories import CITYSCAPES, CITYSCAPES_VOID

IMAGE_FOLDERS = ("images", "imgs", "img_dir")
LABEL_FOLDERS = ("labels", "masks", "annotations", "ann_dir", "instance_maps", "label_maps")
SPLITS = (("train", "val"), ("training", "validation"), ("train", "valid"), ("train", "validation"))
TESTS = ("test", "testing")
CAMVID_FOLDERS = ("701_StillsRaw_full", "LabeledApproved_full")
LOOKED_FOR = (
    "COCO: annotations/panoptic_train*.json or annotations/instances_train*.json, images in images/train* or train*",
    "train/_annotations.coco.json beside its images",
    f"images and labels by split: images/train and labels/train (or {', '.join(LABEL_FOLDERS[1:])}; also training)",
    "train/images and train/labels",
    "CamVid: train and trainannot, train and train_labels, or 701_StillsRaw_full and LabeledApproved_full",
    "Cityscapes: leftImg8bit/train and gtFine/train",
    f"no split: images and one of {', '.join(LABEL_FOLDERS)}, with train.txt or val.txt, or without",
    "nuclei: index.csv, images and instance_maps",
    "data.json, which says where things are (docs/data.md)",
)


def recognise(data: Path) -> Description | None:
    """What the folders below `data` stand for; None where they are of no known kind."""
    return next(_layouts(data), None)


def _layouts(data: Path) -> Iterator[Description]:
    for found in _by_split(data, "leftImg8bit/{}", "gtFine/{}"):
        yield found.model_copy(update={"format": "semantic", "categories": CITYSCAPES, "ignore_index": CITYSCAPES_VOID})
    for labels in ("{}annot", "{}_labels"):
        for found in _by_split(data, "{}", labels):
            yield found.model_copy(update={"format": "semantic"})
    for images, labels in product(IMAGE_FOLDERS, LABEL_FOLDERS):
        for pattern in ("{0}/{1}", "{1}/{0}"):
            folders = (pattern.format(name, "{}") for name in (images, labels))
            for found in _by_split(data, *folders):
                yield found.model_copy(update={"format": _format_of(labels)})
    for images, labels in (*product(IMAGE_FOLDERS, LABEL_FOLDERS), CAMVID_FOLDERS):
        if (data / images).is_dir() and (data / labels).is_dir():
            yield _by_lists(data, images, labels).model_copy(update={"format": _format_of(labels)})


def _by_split(data: Path, images: str, labels: str) -> Iterator[Description]:
    """Folders that differ between the splits by the word in the place of {}; validation and test may be missing."""

    def folders(word: str) -> Folders:
        return Folders(images=images.format(word), labels=labels.format(word))

    test = next((some for some in map(folders, TESTS) if _exist(data, some)), None)
    for train, val in ((folders(train), folders(val)) for train, val in SPLITS):
        if _exist(data, train) and _exist(data, val):
            yield Description(train=train, val=val, test=test)
    for train in map(folders, ("train", "training")):
        if _exist(data, train):
            yield Description(train=train, test=test)


def _by_lists(data: Path, images: str, labels: str) -> Description:
    """Two folders, and the split by the lists that are there: images that none names are for training."""

    def folders(*words: str) -> Folders | None:
        name = next((f"{word}.txt" for word in words if (data / f"{word}.txt").is_file()), None)
        return Folders(images=images, labels=labels, list=name) if name else None

    train, val, test = folders("train"), folders("val", "valid"), folders("test")
    everything = Folders(images=images, labels=labels)
    if train is None and val is None:
        return Description(images=images, labels=labels, test=test)
    return Description(train=train or everything, val=val or everything, test=test)


def _exist(data: Path, folders: Folders) -> bool:
    return (data / folders.images).is_dir() and (data / folders.labels).is_dir()


def _format_of(labels: str) -> Format | None:
    if labels == CAMVID_FOLDERS[1]:
        return "semantic"
    return "label_maps" if labels in ("instance_maps", "label_maps") else None
