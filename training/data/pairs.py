"""Images and their label images, found by name in two folders."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.problems import Problems

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
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
    chosen = set(images) if names is None else _listed(names, images, problems)
    pairs = []
    for key in sorted(images):
        label_path = next((labels[key + ending] for ending in LABEL_ENDINGS if key + ending in labels), None)
        if label_path is not None:
            pairs.append(Pair(name=_name(images[key], image_dir), image_path=images[key], label_path=label_path))
        elif key in chosen:
            wanted = f"{key}.png, {key}_mask.png, {key}_label.png, ..."
            problems.add(f"{images[key]} has no labels in {label_dir} ({wanted}); add them or remove the image")
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
    """Those of linked folders too, unless a link leads back; none that is hidden or in a hidden folder."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        above = Path(parent).resolve()
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not above.is_relative_to(Path(parent, name).resolve())
        ]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _listed(names: Collection[str], images: dict[str, Path], problems: Problems) -> set[str]:
    """Keys of the images that a list names, by path or by the last part of it."""
    by_last = {Path(key).name: key for key in images}

    def find(name: str) -> str | None:
        is_file = Path(name).suffix.lower() in IMAGE_SUFFIXES
        stem = (Path(name).with_suffix("") if is_file else Path(name)).as_posix()
        return stem if stem in images else by_last.get(Path(stem).name)

    chosen = set()
    for name in names:
        key = find(name) or find(name.split()[0])  # some lists have the labels in a second column
        if key is None:
            problems.add(f"{name} is listed, but no such image is there: add it or remove the line")
        else:
            chosen.add(key)
    return chosen


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _key(path: Path, folder: Path, endings: tuple[str, ...]) -> str:
    name = _name(path, folder)
    return next((name.removesuffix(ending) for ending in endings if name.endswith(ending)), name)
