"""A folder of images and annotations, whatever its format, as what training and evaluation read."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

from training.data.coco_instances import find_coco_instances, read_coco_instances
from training.data.coco_panoptic import find_coco_panoptic, read_coco_panoptic
from training.data.description import Description, Folders, listed_names, read_description
from training.data.folders import read_folders
from training.data.index import DataIndex, Record, Split
from training.data.layouts import LOOKED_FOR, recognise
from training.data.pairs import composed, listed
from training.data.problems import Problems
from training.data.splits import choose
from training.nuclei import is_dsb2018, nuclei_index

COCO_FORMATS = ("coco_panoptic", "coco_instances")
TRAIN_VAL: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """A data set that was found, not yet read."""

    path: Path
    splits: tuple[Split, ...]  # train and val; test where there is one
    reader: Callable[[Split], DataIndex]

    def read(self, split: Split) -> DataIndex:
        """One split; a file that holds two is read once.

        Raises ValueError: there is none of that name, or up to ten problems, each with the file and what to do.
        """
        if split not in self.splits:
            legal = ", ".join(self.splits)
            raise ValueError(f"{self.path} has no split {split!r}; legal: {legal}, or another named in data.json")
        return self.reader(split)


def find_data(data: Path, description: Path | None = None) -> DataFolder:
    """What there is in folder `data`, by a data.json in it or by the layout itself.

    Args:
        data: laid out as docs/data.md shows.
        description: a file to take in the place of data.json.

    Raises:
        ValueError: nothing that can be read.
    """
    if not data.is_dir():
        raise ValueError(f"{data} is not a folder: give the one that holds the data set")
    given = read_description(data, description)
    if given.train is not None or given.images is not None:
        return _described(data, given)
    found = _coco(data, given)
    if found is not None:
        return found
    if given.format in (None, "label_maps") and is_dsb2018(data):
        return DataFolder(path=data, splits=TRAIN_VAL, reader=partial(nuclei_index, data))
    layout = recognise(data)
    if layout is None or given.format in COCO_FORMATS:
        raise ValueError(
            f"{data} is no {given.format or 'data set'} that can be read. Looked for:\n  " + "\n  ".join(LOOKED_FOR)
        )
    return _folders(data, layout.overridden(given))


def open_data(data: Path, split: Split, description: Path | None = None) -> DataIndex:
    """One split of the data set in folder `data`. Raises ValueError where `find_data` and `DataFolder.read` do."""
    return find_data(data, description).read(split)


def _coco(data: Path, given: Description) -> DataFolder | None:
    """By COCO's own names; None where there are none. Without a validation split the training images are divided."""
    formats: tuple[tuple[str, Callable[..., Any], Callable[..., DataIndex]], ...] = (
        ("coco_panoptic", find_coco_panoptic, read_coco_panoptic),
        ("coco_instances", find_coco_instances, read_coco_instances),
    )
    for name, find, read in formats:
        if given.format in (None, name):
            found = {split: paths for split in get_args(Split) if (paths := find(data, split))}
            readers = {split: partial(read, *paths) for split, paths in found.items()}
            if "train" in readers or "val" in readers:
                return _by_readers(data, readers, given.val_fraction, {split: at[1] for split, at in found.items()})
    return None


def _described(data: Path, given: Description) -> DataFolder:
    """By the folders that data.json names."""
    folders: dict[Split, Folders | None] = {"train": given.whole or given.train, "val": given.val, "test": given.test}
    named = {split: some for split, some in folders.items() if some is not None}
    if all(some.labels.endswith(".json") for some in named.values()):
        readers = {split: partial(_described_coco, data, some, given) for split, some in named.items()}
        image_dirs = {split: data / some.images for split, some in named.items()}
        return _by_readers(data, readers, given.val_fraction, image_dirs)
    if given.format in COCO_FORMATS:
        raise ValueError(f"'labels' is {named['train'].labels!r}; legal for {given.format}: the JSON file")
    return _folders(data, given)


def _folders(data: Path, description: Description) -> DataFolder:
    splits = TRAIN_VAL if description.test is None else get_args(Split)
    return DataFolder(path=data, splits=splits, reader=lambda split: read_folders(data, split, description))


def _by_readers(
    data: Path,
    readers: Mapping[Split, Callable[[], DataIndex]],
    val_fraction: float,
    image_dirs: Mapping[Split, Path],
) -> DataFolder:
    """Of files that hold a split each; without one for validation, that of the training images holds both."""
    if "val" in readers:
        return DataFolder(path=data, splits=tuple(readers), reader=lambda split: readers[split]())
    whole = cache(readers["train"])

    def read(split: Split) -> DataIndex:
        return readers["test"]() if split == "test" else _part(whole(), split, val_fraction, image_dirs["train"])

    splits = get_args(Split) if "test" in readers else TRAIN_VAL
    return DataFolder(path=data, splits=splits, reader=read)


def _described_coco(data: Path, folders: Folders, given: Description) -> DataIndex:
    annotation_json, image_dir = data / folders.labels, data / folders.images
    if given.categories:
        raise ValueError(f"{annotation_json} has the categories: take them out of data.json")
    png_dir = annotation_json.with_suffix("")
    has_png_dir = png_dir.is_dir() and png_dir.resolve() != image_dir.resolve()
    if given.format == "coco_panoptic" or (given.format is None and has_png_dir):
        index = read_coco_panoptic(annotation_json, image_dir, png_dir)
    else:
        index = read_coco_instances(annotation_json, image_dir)
    names = listed_names(data, folders)
    return index if names is None else _only(index, names, annotation_json, image_dir)


def _only(index: DataIndex, names: Sequence[str], annotation_json: Path, image_dir: Path) -> DataIndex:
    """The images that a list names."""
    problems = Problems(where=annotation_json)
    chosen = listed(names, {_name(record, image_dir) for record in index.records}, problems)
    problems.raise_if_any()
    return replace(index, records=tuple(record for record in index.records if _name(record, image_dir) in chosen))


def _part(index: DataIndex, split: Split, val_fraction: float, image_dir: Path) -> DataIndex:
    """One split of an index that holds all images."""
    chosen = choose([_name(record, image_dir) for record in index.records], split, val_fraction)
    records = tuple(record for record in index.records if _name(record, image_dir) in chosen)
    note = (
        f"no validation split is given: {len(records)} of {len(index.records)} images are in this one, by their names"
    )
    return replace(index, records=records, notes=(*index.notes, note))


def _name(record: Record, image_dir: Path) -> str:
    """The image's path below its folder, without file ending. Images in several folders may share the last part."""
    return composed(Path(os.path.relpath(record.image_path, image_dir)).with_suffix("").as_posix())
