"""A folder of images and annotations, whatever its format, as what training and evaluation read."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from training.data.coco_instances import find_coco_instances, read_coco_instances
from training.data.coco_panoptic import find_coco_panoptic, read_coco_panoptic
from training.data.description import Description, Folders, listed_names, read_description
from training.data.folders import read_folders
from training.data.index import DataIndex, Split
from training.data.layouts import LOOKED_FOR, recognise
from training.data.splits import choose
from training.nuclei import is_dsb2018, nuclei_index

COCO_FORMATS = ("coco_panoptic", "coco_instances")


def open_data(data: Path, split: Split, description: Path | None = None) -> DataIndex:
    """One split of the data set in folder `data`.

    Args:
        data: laid out as docs/data.md shows; a data.json in it, or the layout itself, says what is what.
        split: "train" or "val".
        description: a file to take in the place of data.json.

    Raises:
        ValueError: nothing that can be read, or up to ten problems, each with the file and what to do.
    """
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder: give the one that holds the data set")
    given = read_description(data, description)
    if given.train is not None or given.images is not None:
        return _described(data, split, given)
    found = _coco(data, split, given)
    if found is not None:
        return found
    if given.format in (None, "label_maps") and is_dsb2018(data):
        return nuclei_index(data, split)
    layout = recognise(data)
    if layout is None or given.format in COCO_FORMATS:
        raise ValueError(
            f"{data} is no {given.format or 'data set'} that can be read. Looked for:\n  " + "\n  ".join(LOOKED_FOR)
        )
    return read_folders(data, split, layout.overridden(given))


def _coco(data: Path, split: Split, given: Description) -> DataIndex | None:
    """By COCO's own names; None where there are none. Without a validation split the training images are divided."""
    formats: tuple[tuple[str, Callable[..., Any], Callable[..., DataIndex]], ...] = (
        ("coco_panoptic", find_coco_panoptic, read_coco_panoptic),
        ("coco_instances", find_coco_instances, read_coco_instances),
    )
    for name, find, read in formats:
        if given.format in (None, name):
            paths = {one: find(data, one) for one in get_args(Split)}
            is_whole = paths["val"] is None
            if found := paths["train" if is_whole else split]:
                return _part(read(*found), split, given.val_fraction) if is_whole else read(*found)
    return None


def _described(data: Path, split: Split, given: Description) -> DataIndex:
    """By the folders that data.json names."""
    folders = given.whole or (given.train if split == "train" else given.val)
    assert folders is not None
    if folders.labels.endswith(".json"):
        index = _described_coco(data, folders, given)
        return _part(index, split, given.val_fraction) if given.whole else index
    if given.format in COCO_FORMATS:
        raise ValueError(f"'labels' is {folders.labels!r}; legal for {given.format}: the JSON file")
    return read_folders(data, split, given)


def _described_coco(data: Path, folders: Folders, given: Description) -> DataIndex:
    annotation_json, image_dir = data / folders.labels, data / folders.images
    if given.categories:
        raise ValueError(f"{annotation_json} has the categories: take them out of data.json")
    png_dir = annotation_json.with_suffix("")
    if given.format == "coco_panoptic" or (given.format is None and png_dir.is_dir()):
        index = read_coco_panoptic(annotation_json, image_dir, png_dir)
    else:
        index = read_coco_instances(annotation_json, image_dir)
    names = listed_names(data, folders)
    return index if names is None else _only(index, names, annotation_json)


def _only(index: DataIndex, names: Sequence[str], annotation_json: Path) -> DataIndex:
    """The images that a list names."""
    wanted = {Path(name).stem for name in names}
    if missing := wanted - {record.image_path.stem for record in index.records}:
        shown = ", ".join(sorted(missing)[:5])
        raise ValueError(f"listed images that {annotation_json} has no annotation of: {shown}; take them off the list")
    return replace(index, records=tuple(r for r in index.records if r.image_path.stem in wanted))


def _part(index: DataIndex, split: Split, val_fraction: float) -> DataIndex:
    """One split of an index that holds all images."""
    chosen = choose([record.image_path.stem for record in index.records], split, val_fraction)
    records = tuple(record for record in index.records if record.image_path.stem in chosen)
    note = (
        f"no validation split is given: {len(records)} of {len(index.records)} images are in this one, by their names"
    )
    return replace(index, records=records, notes=(*index.notes, note))
