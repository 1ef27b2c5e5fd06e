"""Images and their label images, found by name in two folders."""

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.data.problems import Problems

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
JPEGS = frozenset({".jpg", ".jpeg"})
LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".gif"})
# What names of labels have after the image's stem; the first that exists is taken.
LABEL_ENDINGS = (
    *("", "_mask", "_masks", "_label", "_labels", "_L", "_P", "_gt", "_seg", "_segmentation", "_annotation"),
    *("_instance_map", "_label_map", "_labelIds", "_labelTrainIds", "_gtFine_labelIds"),
)
IMAGE_ENDINGS = ("_leftImg8bit", "_image")  # dropped from an image's stem


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its labels."""

    name: str  # the image's path below its folder, without file ending
    image_path: Path
    label_path: Path


def pair_files(image_dir: Path, label_dir: Path, *, names: Collection[str] | None = None) -> list[Pair]:
    """The images below `image_dir` with the labels of the same name below `label_dir`, sorted by name.

    Args:
        image_dir, label_dir: may have folders inside, the same in both.
        names: of the images to take, each with or without folder and file ending; None: all.

    Raises:
        ValueError: files without their other half, names that occur twice or are listed and missing.
    """
    problems = Problems(where=image_dir)
    images = _by_key(image_dir, IMAGE_SUFFIXES, IMAGE_ENDINGS, problems)
    labels = _by_key(label_dir, LABEL_SUFFIXES, (), problems)
    if not images:
        raise ValueError(f"{image_dir} has no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    chosen = set(images) if names is None else listed(names, images, problems)

    @cache
    def jpegs() -> set[str]:
        paths = (path for path in _files_below(label_dir) if path.suffix.lower() in JPEGS)
        return {_key(path, label_dir, LABEL_ENDINGS[1:]) for path in paths}

    pairs = []
    for key in sorted(images):
        label_path = next((labels[key + ending] for ending in LABEL_ENDINGS if key + ending in labels), None)
        if label_path is not None:
            pairs.append(Pair(name=_name(images[key], image_dir), image_path=images[key], label_path=label_path))
        elif key in chosen:
            wanted = f"{key}.png, {key}_mask.png, {key}_label.png, ..."
            what = "JPEG is not taken, as it changes labels" if key in jpegs() else "add them or remove the image"
            problems.add(f"{images[key]} has no labels in {label_dir} ({wanted}); {what}")
    for key, path in sorted(labels.items()):
        # Beside the labels may be other pictures of the same image, as in Cityscapes. 10 is none of image 1.
        starts = (key[:end] for end in range(len(key), 0, -1) if not key[end : end + 1].isalnum())
        if not any(start in images for start in starts):
            problems.add(f"{path} has no image in {image_dir}; add the image or remove the labels")
    problems.raise_if_any()
    return [pair for pair in pairs if _key(pair.image_path, image_dir, IMAGE_ENDINGS) in chosen]


def _by_key(folder: Path, suffixes: Collection[str], endings: tuple[str, ...], problems: Problems) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(_files_below(folder)):
        if path.suffix.lower() not in suffixes:
            continue
        key = _key(path, folder, endings)
        if key in found:
            problems.add(f"{path} and {found[key].name} have the same name: rename or remove one")
        found[key] = path
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """Those of linked folders too, unless a link leads back; none that is hidden or in a hidden folder.

    Raises OSError where a folder may not be read: what is in it would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        above = Path(parent).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not above.is_relative_to(Path(parent, name).resolve())
        ]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def listed(names: Iterable[str], images: Collection[str], problems: Problems) -> set[str]:
    """Those of `images`, paths without ending, that a list names: by path, or by the end of it where that is of one.

    A list may also have more of the path than `images`. What cannot be told is added to `problems`.
    """
    by_end: dict[str, list[str]] = {}
    for image in images:
        for end in _ends(image):
            by_end.setdefault(end, []).append(image)

    def find(name: str) -> list[str]:
        is_file = Path(name).suffix.lower() in IMAGE_SUFFIXES
        stem = composed((Path(name).with_suffix("") if is_file else Path(name)).as_posix())
        whole = [end for end in _ends(stem) if end in images]
        return whole[:1] or by_end.get(stem, [])

    chosen = set()
    for name in names:
        found = find(name) or find(name.split()[0])  # some lists have the labels in a second column
        if not found:
            problems.add(f"{name} is listed, but no such image is there: add it or remove the line")
        elif len(found) > 1:
            problems.add(f"{name} is listed, and several images are called so: write {', '.join(sorted(found)[:3])}")
        chosen.update(found[:1])
    return chosen


def _ends(path: str) -> Iterator[str]:
    """a/b/c, b/c, c."""
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def composed(name: str) -> str:
    """A file name with each accented letter as one character: macOS writes two, and both look the same."""
    return unicodedata.normalize("NFC", name)


def _name(path: Path, folder: Path) -> str:
    return composed(path.relative_to(folder).with_suffix("").as_posix())


def _key(path: Path, folder: Path, endings: tuple[str, ...]) -> str:
    name = _name(path, folder)
    return next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), name)
