"""COCO panoptic: a JSON file, a folder of images and a folder of PNG id-maps (id = R + 256 G + 65536 B, 0 is void).

Everything that can be wrong in the JSON is found when it is read, and not after an hour of training.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.coco_json import CocoJson, is_int
from training.data.index import Annotation, DataIndex, Record, SegmentInfo, Split
from training.data.size import check_label_size


@dataclass(frozen=True, kw_only=True)
class PanopticSource:
    """A PNG id-map and what the JSON says about its ids."""

    path: Path
    segments: tuple[SegmentInfo, ...]

    def read(self, height: int, width: int) -> Annotation:
        """Read the id-map. Raises ValueError where its size or its ids are not those of the JSON."""
        id_map = read_id_map(self.path)
        check_label_size(self.path, id_map.shape, (height, width))
        return Annotation(
            layers=self._numbered(id_map)[None],
            class_index=np.array([segment.class_index for segment in self.segments], np.int64),
            is_crowd=np.array([segment.is_crowd for segment in self.segments], np.bool_),
        )

    def _numbered(self, id_map: NDArray[np.int32]) -> NDArray[np.int32]:
        """`id_map` (H, W) with the ids of the file replaced by 1..T, in the order of the segments."""
        ids = np.array([0, *(segment.id for segment in self.segments)], np.int32)
        order = np.argsort(ids)
        places = np.searchsorted(ids[order], id_map).clip(max=len(ids) - 1)
        numbers: NDArray[np.int32] = order[places].astype(np.int32)
        unknown = id_map[ids[numbers] != id_map]
        if unknown.size:
            raise ValueError(
                f"{self.path} holds ids that are not in segments_info: {np.unique(unknown)[:5].tolist()}; "
                "list them there, or set their pixels to 0 (void)"
            )
        return numbers


def read_id_map(path: Path) -> NDArray[np.int32]:
    """The ids (H, W) in a COCO panoptic PNG. Raises ValueError where it is not one."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if image is None or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{path} is not an 8-bit RGB PNG; in COCO panoptic the id is R + 256 G + 65536 B")
    blue, green, red = (image[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray(red + 256 * green + 65536 * blue, np.int32)


def find_coco_panoptic(data: Path, split: Split) -> tuple[Path, Path, Path] | None:
    """Annotation JSON, image folder and PNG folder of `split` below `data`; None where they are not.

    Takes our converter's names (panoptic_train, images/train), those with COCO's year (panoptic_train2017,
    images/train2017), and images beside `images/` (train2017).
    """
    for json_path in sorted((data / "annotations").glob(f"panoptic_{split}*.json")):
        name = json_path.stem.removeprefix("panoptic_")
        for image_dir in (data / "images" / name, data / name):
            png_dir = json_path.with_suffix("")
            if image_dir.is_dir() and png_dir.is_dir():
                return json_path, image_dir, png_dir
    return None


def read_coco_panoptic(annotation_json: Path, image_dir: Path, png_dir: Path) -> DataIndex:
    """Read and check the annotations; images and id-maps must exist but are not opened.

    Raises ValueError with the file and up to ten problems, each with the entry it is in and what to do.
    """
    coco = CocoJson(path=annotation_json, image_dir=image_dir)
    categories = coco.categories()
    images = coco.images()
    records = tuple(_records(coco, images, png_dir, {category.id: i for i, category in enumerate(categories)}))
    coco.problems.raise_if_any()
    if not records:
        raise ValueError(f"{annotation_json} has no annotated image: nothing to train on or to evaluate")
    return DataIndex(format="COCO panoptic", kind="panoptic", categories=categories, records=records)


def _records(
    coco: CocoJson, images: Mapping[int | str, dict[str, Any]], png_dir: Path, class_of: Mapping[int, int]
) -> Iterator[Record]:
    image_ids = [entry.get("image_id") for entry in coco.entries["annotations"]]
    coco.check_unique("annotations, by image_id", image_ids)
    labelled = {image_id for image_id in image_ids if isinstance(image_id, int | str)}
    for key, image in images.items():
        if key not in labelled:
            coco.problems.add(f"image {image.get('file_name')} has no annotation: add one or remove it")
    for where, entry, image in coco.annotations(images):
        name = entry.get("file_name")
        if not isinstance(name, str) or not (png_dir / name).is_file():
            coco.problems.add(f"{where}: {png_dir / str(name)} is missing; add it or remove the entry")
        segments = tuple(_segments(coco, where, entry.get("segments_info"), class_of))
        if not coco.problems.found:
            yield Record(
                image_path=coco.image_dir / image["file_name"],
                source=PanopticSource(path=png_dir / str(name), segments=segments),
                group=str(image.get("group", "")),
                height=image["height"],
                width=image["width"],
            )


def _segments(coco: CocoJson, where: str, entries: Any, class_of: Mapping[int, int]) -> Iterator[SegmentInfo]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        coco.problems.add(f"{where}: 'segments_info' is missing or not a list of objects")
        return
    coco.check_unique(f"{where}, segments_info", [entry.get("id") for entry in entries])
    for index, entry in enumerate(entries):
        segment_id, category_id = entry.get("id"), entry.get("category_id")
        if not is_int(segment_id) or not 0 < segment_id < 256**3:
            coco.problems.add(
                f"{where}, segments_info[{index}]: id {segment_id!r} is not an integer from 1 to 16777215"
            )
        elif not is_int(category_id) or category_id not in class_of:
            coco.problems.add(f"{where}, segment {segment_id}: {coco.category_problem(category_id)}")
        else:
            yield SegmentInfo(id=segment_id, class_index=class_of[category_id], is_crowd=entry.get("iscrowd") == 1)
