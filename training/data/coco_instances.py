"""COCO instances: one JSON file with a polygon or run-length mask for each object, and a folder of images.

Objects may overlap; those that do lie in different layers. A crowd (iscrowd 1) is a region of uncounted objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask  # type: ignore[import-untyped]
from rich.progress import track

from service.rle import decode_runs
from training.data.coco_json import CocoJson, is_int
from training.data.index import Annotation, DataIndex, Record, Split


@dataclass(frozen=True, kw_only=True)
class CocoObject:
    """One object, its mask in COCO's compressed run lengths (a tenth of the memory of a polygon in Python)."""

    class_index: int
    is_crowd: bool
    counts: bytes


@dataclass(frozen=True, kw_only=True)
class InstancesSource:
    """The objects of one image."""

    path: Path  # the JSON file
    objects: tuple[CocoObject, ...]

    def read(self, height: int, width: int) -> Annotation:
        """Decode the masks, each into the first layer in which its pixels are free."""
        layers = [np.zeros((height, width), np.int32)]
        for number, item in enumerate(self.objects, start=1):
            rle = {"size": [height, width], "counts": item.counts}
            left, top, box_width, box_height = (int(value) for value in coco_mask.toBbox(rle))
            box = np.s_[top : top + box_height, left : left + box_width]
            inside: NDArray[np.bool_] = coco_mask.decode(rle)[box].astype(np.bool_)
            layer = next((layer for layer in layers if not layer[box][inside].any()), None)
            if layer is None:
                layer = np.zeros((height, width), np.int32)
                layers.append(layer)
            layer[box][inside] = number
        return Annotation(
            layers=np.stack(layers),
            class_index=np.array([item.class_index for item in self.objects], np.int64),
            is_crowd=np.array([item.is_crowd for item in self.objects], np.bool_),
        )


def find_coco_instances(data: Path, split: Split) -> tuple[Path, Path] | None:
    """Annotation JSON and image folder of `split` below `data`; None where they are not.

    Takes annotations/instances_train2017.json with the images in train2017 or images/train2017, with or without a
    year, and a JSON within the image folder (train/_annotations.coco.json, valid/...), as annotation tools export it.
    """
    for json_path in sorted((data / "annotations").glob(f"instances_{split}*.json")):
        name = json_path.stem.removeprefix("instances_")
        for image_dir in (data / "images" / name, data / name, data / "images"):
            if image_dir.is_dir():
                return json_path, image_dir
    for name in ("valid", "val") if split == "val" else (split,):
        json_path = data / name / "_annotations.coco.json"
        if json_path.is_file():
            return json_path, json_path.parent
    return None


def read_coco_instances(annotation_json: Path, image_dir: Path) -> DataIndex:
    """Read and check the annotations; images must exist but are not opened.

    Categories with "isthing": 0, as a panoptic set converted to this format has, are left out with their annotations,
    and so are objects that cover no pixel. An image without objects is kept: there is nothing to be found in it.

    Raises ValueError with the file and up to ten problems, each with the entry it is in and what to do.
    """
    coco = CocoJson(path=annotation_json, image_dir=image_dir)
    listed = coco.categories(is_thing=1)
    categories = tuple(category for category in listed if category.is_thing)
    if not categories:
        raise ValueError(f"{annotation_json} has no category of things: there are no objects to find")
    class_of = {category.id: index for index, category in enumerate(listed)}  # things have the first indices
    images = coco.images()
    coco.problems.raise_if_any()
    objects: dict[int | str, list[CocoObject]] = {key: [] for key in images}
    empty: list[str] = []
    for where, entry, image in track(
        coco.annotations(images), description="masks", total=len(coco.entries["annotations"]), transient=True
    ):
        item = _object(coco, where, entry, image, class_of)
        if item is not None and item.class_index < len(categories):
            if _area(item, image):
                objects[image["id"]].append(item)
            else:
                empty.append(f"{where}, id {entry.get('id')!r}")
    coco.problems.raise_if_any()
    if not any(objects.values()):
        raise ValueError(f"{annotation_json} has no object: nothing to train on or to evaluate")
    return DataIndex(
        format="COCO instances",
        kind="instance",
        categories=categories,
        records=tuple(_records(coco, images, objects)),
        notes=tuple(_notes(coco.path, empty, [category.name for category in listed if not category.is_thing])),
    )


def _records(
    coco: CocoJson, images: Mapping[int | str, dict[str, Any]], objects: Mapping[int | str, list[CocoObject]]
) -> Iterator[Record]:
    for key, image in images.items():
        yield Record(
            image_path=coco.image_dir / image["file_name"],
            source=InstancesSource(path=coco.path, objects=tuple(objects[key])),
            group=str(image.get("group", "")),
            height=image["height"],
            width=image["width"],
        )


def _notes(path: Path, empty: list[str], stuff: list[str]) -> Iterator[str]:
    if empty:
        yield (
            f"{path}: {len(empty)} objects cover no pixel and are left out; draw them anew or remove them: "
            + "; ".join(empty[:3])
            + (", ..." if len(empty) > 3 else "")
        )
    if stuff:
        yield f"{path}: {len(stuff)} categories of stuff are left out, as instances are things: {', '.join(stuff[:5])}"


def _object(
    coco: CocoJson, where: str, entry: dict[str, Any], image: dict[str, Any], class_of: Mapping[int, int]
) -> CocoObject | None:
    category_id = entry.get("category_id")
    where = f"{where}, id {entry.get('id')!r}"
    if not is_int(category_id) or category_id not in class_of:
        coco.problems.add(f"{where}: {coco.category_problem(category_id)}")
        return None
    try:
        counts = _compressed(entry.get("segmentation"), image["height"], image["width"])
    except ValueError as error:
        coco.problems.add(f"{where}: {error}; draw the object anew or remove it")
        return None
    return CocoObject(class_index=class_of[category_id], is_crowd=entry.get("iscrowd") == 1, counts=counts)


def _compressed(segmentation: Any, height: int, width: int) -> bytes:
    """COCO's compressed run lengths of a polygon list, or of run lengths of either kind."""
    if isinstance(segmentation, list) and segmentation:
        for polygon in segmentation:
            _check_polygon(polygon)
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        return bytes(rle["counts"])
    if not isinstance(segmentation, dict):
        raise ValueError(f"'segmentation' is {segmentation!r}; legal: polygons [[x, y, ...], ...] or run lengths")
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise ValueError(f"the run lengths are of size {size}, the image has [{height}, {width}]")
    if isinstance(counts, list) and all(is_int(count) and count >= 0 for count in counts):
        if sum(counts) != height * width:
            raise ValueError(f"the run lengths cover {sum(counts)} pixels, not {height} x {width}")
        return bytes(coco_mask.frPyObjects(segmentation, height, width)["counts"])
    if isinstance(counts, str):
        decode_runs(counts, (height, width))  # pycocotools reads beyond its memory where they do not fit
        return counts.encode("ascii")
    raise ValueError(f"'counts' is a {type(counts).__name__}; legal: a list of lengths, or COCO's compressed text")


def _check_polygon(polygon: Any) -> None:
    is_flat = isinstance(polygon, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6 for value in polygon
    )
    if not is_flat:
        raise ValueError("a polygon is not a list of finite numbers x, y, x, y, ...")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers; legal: two for each of three corners or more")
    if all(point == next_point for point, next_point in pairwise(zip(polygon[::2], polygon[1::2], strict=True))):
        raise ValueError("all corners of a polygon are the same point")


def _area(item: CocoObject, image: dict[str, Any]) -> int:
    return int(coco_mask.area({"size": [image["height"], image["width"]], "counts": item.counts}))
