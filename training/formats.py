"""Readers of annotation formats. COCO panoptic is what training reads; everything else is converted to it.

A COCO panoptic set is a JSON file, a folder of images and a folder of PNG id-maps, in which the id of a pixel
is R + 256 G + 65536 B and 0 is void. Everything that can be wrong in the JSON is found here, at the start and
in one message, and not after an hour of training.
"""

import colorsys
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from model.config import Category

MAX_PROBLEMS = 10  # in one message


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """What the annotation says about one id of an id-map."""

    id: int
    class_index: int
    is_crowd: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """One annotated image, not yet read."""

    image_path: Path
    png_path: Path  # its id-map
    segments: tuple[SegmentInfo, ...]
    group: str  # images of one kind, for sampling and for scores of each kind; "" where the set has none
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class PanopticIndex:
    """A data set: what there is to read. `class_index` counts along `categories`: things, then stuff."""

    categories: tuple[Category, ...]
    records: tuple[Record, ...]


def find_coco_panoptic(data: Path, split: Literal["train", "val"]) -> tuple[Path, Path, Path]:
    """Annotation JSON, image folder and PNG folder of `split` below `data`.

    Takes our converter's names (panoptic_train, images/train), those with COCO's year (panoptic_train2017,
    images/train2017), and images beside `images/` (train2017). Raises ValueError with what was looked for.
    """
    for json_path in sorted((data / "annotations").glob(f"panoptic_{split}*.json")):
        name = json_path.stem.removeprefix("panoptic_")
        for image_dir in (data / "images" / name, data / name):
            png_dir = json_path.with_suffix("")
            if image_dir.is_dir() and png_dir.is_dir():
                return json_path, image_dir, png_dir
    raise ValueError(
        f"{data} has no COCO panoptic {split} split: looked for annotations/panoptic_{split}*.json with "
        f"a folder of the same name (PNG id-maps) beside it and the images in images/{split}* or {split}*"
    )


def read_coco_panoptic(annotation_json: Path, image_dir: Path, png_dir: Path) -> PanopticIndex:
    """Read and check the annotations; images and id-maps must exist but are not opened.

    Raises ValueError with the file and up to ten problems, each with the entry it is in and what to do.
    """
    return _Reader(annotation_json, image_dir, png_dir).read()


@dataclass
class _Reader:
    json_path: Path
    image_dir: Path
    png_dir: Path
    problems: list[str] = field(default_factory=list)

    def read(self) -> PanopticIndex:
        document = _load_json(self.json_path)
        entries = {name: self._list_of(document, name) for name in ("categories", "images", "annotations")}
        self._raise_problems()
        categories = tuple(self._categories(entries["categories"]))
        self._raise_problems()  # without categories every segment would be a problem
        images = self._images(entries["images"])
        class_of = {category.id: index for index, category in enumerate(categories)}
        records = tuple(self._records(entries["annotations"], images, class_of))
        self._raise_problems()
        if not records:
            raise ValueError(f"{self.json_path} has no annotated image: nothing to train on or to evaluate")
        return PanopticIndex(categories=categories, records=records)

    def _raise_problems(self) -> None:
        if self.problems:
            shown = self.problems[:MAX_PROBLEMS]
            if len(self.problems) > MAX_PROBLEMS:
                shown.append(f"... and {len(self.problems) - MAX_PROBLEMS} more")
            raise ValueError(f"{self.json_path} cannot be used:\n  " + "\n  ".join(shown))

    def _list_of(self, document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        entries = document.get(name)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self.problems.append(f"{name!r} is missing or not a list of objects: is this COCO panoptic JSON?")
            return []
        return entries

    def _categories(self, entries: list[dict[str, Any]]) -> Iterator[Category]:
        """Things first, then stuff, each by id."""
        self._check_unique("categories", [entry.get("id") for entry in entries])
        valid = []
        for index, entry in enumerate(entries):
            if not _is_int(entry.get("id")) or not isinstance(entry.get("name"), str):
                self.problems.append(f"categories[{index}]: needs an integer 'id' and a 'name'; has {entry}")
            elif entry.get("isthing") not in (0, 1):
                self.problems.append(f"category {entry['id']} ({entry['name']}): set 'isthing' to 0 or 1")
            else:
                valid.append(entry)
        valid.sort(key=lambda entry: (not entry["isthing"], entry["id"]))
        for index, entry in enumerate(valid):
            colour = entry.get("color") or _distinct_colour(index)
            try:
                yield Category(
                    id=entry["id"],
                    name=entry["name"],
                    is_thing=bool(entry["isthing"]),
                    colour=tuple(colour),
                )
            except (TypeError, ValueError) as error:
                self.problems.append(f"category {entry['id']} ({entry['name']}): 'color': {error}")

    def _images(self, entries: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
        """Images by id."""
        self._check_unique("images", [entry.get("id") for entry in entries])
        images = {}
        for index, entry in enumerate(entries):
            name, sizes = entry.get("file_name"), [entry.get("height"), entry.get("width")]
            where = f"images[{index}] (id {entry.get('id')!r})"
            if not isinstance(entry.get("id"), int | str) or not isinstance(name, str):
                self.problems.append(f"{where}: needs an 'id' (integer or text) and a 'file_name'")
                continue
            if any(not _is_int(size) or size < 1 for size in sizes):
                self.problems.append(f"{where}: height and width are {sizes}; write the image's own, in pixels")
            elif not (self.image_dir / name).is_file():
                self.problems.append(f"{where}: {self.image_dir / name} is missing; add it or remove the entry")
            images[entry["id"]] = entry
        return images

    def _records(
        self,
        entries: list[dict[str, Any]],
        images: Mapping[Any, dict[str, Any]],
        class_of: Mapping[int, int],
    ) -> Iterator[Record]:
        image_ids = [entry.get("image_id") for entry in entries]
        self._check_unique("annotations, by image_id", image_ids)
        labelled = {image_id for image_id in image_ids if isinstance(image_id, int | str)}
        self.problems.extend(
            f"image {images[key].get('file_name')} has no annotation: add one or remove it"
            for key in images
            if key not in labelled
        )
        for index, entry in enumerate(entries):
            where = f"annotations[{index}] (image id {entry.get('image_id')!r})"
            image_id, name = entry.get("image_id"), entry.get("file_name")
            image = images.get(image_id) if isinstance(image_id, int | str) else None
            if image is None:
                self.problems.append(f"{where}: no image has this id; add it to 'images' or remove the entry")
                continue
            if not isinstance(name, str) or not (self.png_dir / name).is_file():
                self.problems.append(f"{where}: {self.png_dir / str(name)} is missing; add it or remove the entry")
            segments = tuple(self._segments(where, entry.get("segments_info"), class_of))
            if not self.problems:
                yield Record(
                    image_path=self.image_dir / image["file_name"],
                    png_path=self.png_dir / str(name),
                    segments=segments,
                    group=str(image.get("group", "")),
                    height=image["height"],
                    width=image["width"],
                )

    def _segments(self, where: str, entries: Any, class_of: Mapping[int, int]) -> Iterator[SegmentInfo]:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self.problems.append(f"{where}: 'segments_info' is missing or not a list of objects")
            return
        self._check_unique(f"{where}, segments_info", [entry.get("id") for entry in entries])
        for index, entry in enumerate(entries):
            segment_id, category_id = entry.get("id"), entry.get("category_id")
            if not _is_int(segment_id) or not 0 < segment_id < 256**3:
                self.problems.append(
                    f"{where}, segments_info[{index}]: id {segment_id!r} is not an integer from 1 to 16777215"
                )
            elif not _is_int(category_id) or category_id not in class_of:
                self.problems.append(
                    f"{where}, segment {segment_id}: category {category_id!r} is not in 'categories'; "
                    f"add it there or correct the segment"
                )
            else:
                yield SegmentInfo(id=segment_id, class_index=class_of[category_id], is_crowd=entry.get("iscrowd") == 1)

    def _check_unique(self, where: str, ids: list[Any]) -> None:
        repeated = [key for key, count in Counter(map(repr, ids)).items() if count > 1]
        if repeated:
            self.problems.append(f"{where}: ids that occur more than once: {', '.join(repeated[:5])}")


def _load_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}. "
            "The file is damaged or cut off: write or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error}): give the annotation JSON") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}, not an object: is this COCO panoptic JSON?")
    return document


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _distinct_colour(index: int) -> tuple[int, int, int]:
    """A colour for class `index`: hues a golden ratio apart never come close for neighbours."""
    hue = index * 0.6180339887 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.9, 0.6)[index // 8 % 2], (0.95, 0.7)[index // 4 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)
