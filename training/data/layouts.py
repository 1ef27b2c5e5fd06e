"""Folders that data sets of the field have: where the images and labels of each split are, and what the labels mean."""

from collections.abc import Iterator
from pathlib import Path

from training.data.description import Description, Folders, Format
from training.data.known_categories import CITYSCAPES, CITYSCAPES_VOID

IMAGE_FOLDERS = ("images", "imgs", "img_dir")
LABEL_FOLDERS = ("labels", "masks", "annotations", "ann_dir", "instance_maps", "label_maps")
SPLITS = (("train", "val"), ("training", "validation"), ("train", "valid"), ("train", "validation"))
LOOKED_FOR = (
    "COCO: annotations/panoptic_train*.json or annotations/instances_train*.json, images in images/train* or train*",
    "train/_annotations.coco.json beside its images",
    f"images and labels by split: images/train and labels/train (or {', '.join(LABEL_FOLDERS[1:])}; also training)",
    "train/images and train/labels",
    "CamVid: train and trainannot, or train and train_labels",
    "Cityscapes: leftImg8bit/train and gtFine/train",
    f"no split: images and one of {', '.join(LABEL_FOLDERS)}, with train.txt and val.txt or without",
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
    for images in IMAGE_FOLDERS:
        for labels in LABEL_FOLDERS:
            for pattern in ("{0}/{1}", "{1}/{0}"):
                folders = (pattern.format(name, "{}") for name in (images, labels))
                for found in _by_split(data, *folders):
                    yield found.model_copy(update={"format": _format_of(labels)})
    for images in IMAGE_FOLDERS:
        for labels in LABEL_FOLDERS:
            if (data / images).is_dir() and (data / labels).is_dir():
                train, val = (_listed(data, images, labels, names) for names in (("train",), ("val", "valid")))
                both = {"train": train, "val": val} if train and val else {"images": images, "labels": labels}
                yield Description(format=_format_of(labels), **both)


def _by_split(data: Path, images: str, labels: str) -> Iterator[Description]:
    """Folders that differ between the splits by the word in the place of {}; validation may be missing."""
    for train_name, val_name in SPLITS:
        train, val = (
            Folders(images=images.format(name), labels=labels.format(name)) for name in (train_name, val_name)
        )
        if _exist(data, train) and _exist(data, val):
            yield Description(train=train, val=val)
    for name in ("train", "training"):
        train = Folders(images=images.format(name), labels=labels.format(name))
        if _exist(data, train):
            yield Description(images=train.images, labels=train.labels)


def _exist(data: Path, folders: Folders) -> bool:
    return (data / folders.images).is_dir() and (data / folders.labels).is_dir()


def _listed(data: Path, images: str, labels: str, names: tuple[str, ...]) -> Folders | None:
    name = next((f"{name}.txt" for name in names if (data / f"{name}.txt").is_file()), None)
    return Folders(images=images, labels=labels, list=name) if name else None


def _format_of(labels: str) -> Format | None:
    return "label_maps" if labels in ("instance_maps", "label_maps") else None
