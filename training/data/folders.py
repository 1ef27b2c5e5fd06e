"""Data sets of two folders, images and label images: from the folders to records."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from model.config import Category
from training.data.class_names import CLASS_LISTS, Classes, has_colours_of, is_colour_coded, is_void, known_classes
from training.data.colours import distinct_colour
from training.data.description import Description, Folders, listed_names
from training.data.index import DataIndex, Record, Source, Split
from training.data.label_file import read_label_image, unique_codes
from training.data.label_maps import CATEGORIES, LabelMapSource
from training.data.pairs import Pair, pair_files
from training.data.problems import Problems
from training.data.semantic_png import ClassCode, SemanticSource, colour_code, read_codes
from training.data.size import image_size
from training.data.splits import choose

NUM_LOOKED_AT = 16  # label images by which the format is guessed
SAY_FORMAT = 'if not, say "format" in data.json'


def read_folders(data: Path, split: Split, description: Description) -> DataIndex:
    """One split, that there is, of a data set whose folders, at least, are described.

    Raises ValueError, with all files that have no other half or that cannot be opened.
    """
    pairs, notes = _pairs(data, description)
    if not pairs[split]:
        raise ValueError(f"{data} has no image for {split}: the lists of the other splits name them all")
    chosen = pairs[split]
    everything = tuple(pair.label_path for pair in (*pairs["train"], *pairs["val"]))
    is_semantic = description.format == "semantic" or (
        description.format is None
        and (_lists_classes(data, description) or not looks_like_label_maps(everything[:NUM_LOOKED_AT]))
    )
    if description.format is None and not is_colour_coded(everything[0]):
        notes.append(f"the labels look like {'classes' if is_semantic else 'instance label maps'}; " + SAY_FORMAT)
    if is_semantic:
        categories, code, note = semantic_code(data, description, everything)
        notes += [note] if note else []
        sources: list[Source] = [SemanticSource(path=pair.label_path, code=code) for pair in chosen]
    else:
        categories = _label_map_categories(description)
        ignored = description.ignore_index if "ignore_index" in description.model_fields_set else ()
        sources = [LabelMapSource(path=pair.label_path, ignore_index=ignored) for pair in chosen]
    return DataIndex(
        format="semantic PNG" if is_semantic else "instance label maps",
        kind="semantic" if is_semantic else "panoptic",
        categories=categories,
        records=_records(data, [pair.image_path for pair in chosen], sources),
        notes=tuple(notes),
    )


def _records(data: Path, image_paths: list[Path], sources: list[Source]) -> tuple[Record, ...]:
    problems = Problems(where=data)
    records = []
    for image_path, source in zip(image_paths, sources, strict=True):
        try:
            height, width = image_size(image_path)
        except ValueError as error:
            problems.add(str(error))
            continue
        records.append(Record(image_path=image_path, source=source, height=height, width=width))
    problems.raise_if_any()
    return tuple(records)


def _pairs(data: Path, description: Description) -> tuple[dict[Split, list[Pair]], list[str]]:
    """The images of each split that there is, and what was assumed."""
    whole = description.whole
    given: dict[Split, Folders | None] = {
        "train": whole or description.train,
        "val": description.val,
        "test": description.test,
    }
    folders = {split: some for split, some in given.items() if some is not None}
    pairs = {split: _of_folders(data, some) for split, some in folders.items()}
    for split, some in folders.items():
        if some.list is None:  # what others list is theirs
            listed = {pair.image_path for other in folders if folders[other].list for pair in pairs[other]}
            pairs[split] = [pair for pair in pairs[split] if pair.image_path not in listed]
    # Lists that name every image leave none to validate with, where that has no list of its own.
    if whole is None and (pairs["val"] or folders["val"].list is not None):
        return pairs, []
    names = [pair.name for pair in pairs["train"]]
    chosen = choose(names, "val", description.val_fraction)
    pairs["val"] = [pair for pair in pairs["train"] if pair.name in chosen]
    pairs["train"] = [pair for pair in pairs["train"] if pair.name not in chosen]
    what = f"{folders['train'].images} has no validation images beside it" if description.train else "no split is given"
    return pairs, [f"{what}: {len(chosen)} of {len(names)} images are for validation, by their names"]


def _of_folders(data: Path, folders: Folders) -> list[Pair]:
    for name in (folders.images, folders.labels):
        if not (data / name).is_dir():
            raise ValueError(f"{data / name} is not a folder; correct the name in data.json, or make it")
    return pair_files(data / folders.images, data / folders.labels, names=listed_names(data, folders))


def _lists_classes(data: Path, description: Description) -> bool:
    """Whether more classes are listed than the objects and the background of label maps, and none is a thing."""
    described = description.categories
    if len(described) > 2 and all(category.is_thing is None for category in described):
        return True
    return any((data / name).is_file() for name in CLASS_LISTS)


def looks_like_label_maps(label_paths: tuple[Path, ...]) -> bool:
    """Whether numbers are objects: more than 8 bits, or always 0, 1, ..., n with an n that differs and exceeds 8."""
    tops = []
    for path in label_paths:
        labels = read_label_image(path)
        if labels.ndim == 3:
            return False
        if labels.dtype.itemsize > 1:
            return True
        values = np.unique(labels)
        if len(values) != int(values[-1]) + 1:
            return False
        tops.append(int(values[-1]))
    return max(tops, default=0) > 8 and len(set(tops)) > 1


def _label_map_categories(description: Description) -> tuple[Category, ...]:
    """The thing and the background; the user may name one or both."""
    things = [category for category in description.categories if category.is_thing is not False]
    stuff = [category for category in description.categories if category.is_thing is False]
    if len(things) > 1 or len(stuff) > 1:
        raise ValueError(
            f"instance label maps have one category of objects and a background; data.json names "
            f"{', '.join(category.name for category in description.categories)}. For several use COCO instances"
        )
    categories = []
    for default, given in zip(CATEGORIES, (things, stuff), strict=True):
        if not given:
            categories.append(default)
            continue
        number = default.id if given[0].id is None else given[0].id
        colour = given[0].colour[0] if given[0].colour else default.colour
        categories.append(Category(id=number, name=given[0].name, is_thing=default.is_thing, colour=colour))
    if categories[0].id == categories[1].id:
        raise ValueError(f"the objects and the background have the same id {categories[0].id}: set another 'id'")
    return tuple(categories)


def semantic_code(
    data: Path, description: Description, label_paths: tuple[Path, ...]
) -> tuple[tuple[Category, ...], ClassCode, str | None]:
    """Categories, how the labels write them, and where that is known from if data.json does not say."""
    if description.categories:
        classes = Classes(categories=description.categories, note="")
    else:
        classes = known_classes(data, label_paths, description.ignore_index)
    is_colour = _is_colour(classes, description, label_paths[:NUM_LOOKED_AT])
    if is_colour:
        void = [colour_code(colour) for colour in description.ignore_colour]
    else:
        void = [*classes.ignore_index, *description.ignore_index, *([0] if description.reduce_zero_label else [])]
    class_of: dict[int, int | None] = dict.fromkeys(void)
    categories: list[Category] = []
    for place, category in enumerate(classes.categories, start=int(description.reduce_zero_label)):
        values = category.value or ((place if category.id is None else category.id),)
        codes = [colour_code(colour) for colour in category.colour] if is_colour else values
        if is_void(category):
            class_of |= dict.fromkeys(codes)
            continue
        index = len(categories)
        class_of |= dict.fromkeys(codes, index)
        own_id = index + description.reduce_zero_label if is_colour else min(codes)
        categories.append(
            Category(
                id=own_id if category.id is None else category.id,
                name=category.name,
                is_thing=False,  # nobody has counted them
                colour=category.colour[0] if category.colour else distinct_colour(index),
            )
        )
    if not is_colour and not any(category.value for category in classes.categories):
        _check_palettes(label_paths[:NUM_LOOKED_AT], classes, class_of)
    if not categories:
        raise ValueError(
            f"the labels of {data} hold nothing but void, such as {label_paths[0]}: give the values or colours of the "
            'classes as "categories" in data.json'
        )
    if len({category.id for category in categories}) < len(categories):
        ids = ", ".join(f"{category.id} ({category.name})" for category in categories)
        raise ValueError(f"categories with the same id: {ids}; give each its own 'id' in data.json, or none")
    void_names = ", ".join(category.name for category in classes.categories if is_void(category))
    parts = (classes.note, f"void, by its name: {void_names}" if void_names else "")
    return tuple(categories), ClassCode(is_colour=is_colour, class_of=class_of), "; ".join(filter(None, parts)) or None


def _is_colour(classes: Classes, description: Description, label_paths: tuple[Path, ...]) -> bool:
    """Whether the labels are to be read as colours: each class has some, none has values, and the files do."""
    if any(category.value for category in classes.categories):
        return False
    if not all(category.colour for category in classes.categories):
        return False
    known = {colour for category in classes.categories for colour in category.colour} | set(description.ignore_colour)
    return any(has_colours_of(path, known) for path in label_paths)


def _check_palettes(label_paths: tuple[Path, ...], classes: Classes, class_of: Mapping[int, int | None]) -> None:
    """Raise ValueError where a palette has the colours of the categories in another order than their values.

    Such files are no colours only because some of their colours are not listed, and classes would be swapped.
    """
    named = [category for category in classes.categories if not is_void(category)]
    of_colour = {colour_code(colour): index for index, known in enumerate(named) for colour in known.colour}
    for path in label_paths:
        if read_label_image(path, palette_as_colours=True).ndim == 2:
            continue
        codes, values = read_codes(path, is_colour=True), read_codes(path, is_colour=False)
        for value in unique_codes(values)[0]:
            index = of_colour.get(int(codes[values == value][0]))
            if index is not None and class_of.get(value) != index:
                raise ValueError(
                    f"{path}: value {value} has the colour of {named[index].name!r} in the file's palette, and is not "
                    'its value by the list of categories: give each category its "value" in data.json, or list all '
                    'colours, those of void as "ignore_colour"'
                )
