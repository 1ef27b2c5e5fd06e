"""One result, asked for in one way: task, categories, format; and its bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service import polygons, rle
from service.artifact import ArtifactMetadata
from service.instances import Instances, Result, select_instances
from service.overlay import draw_overlay, panoptic_png
from service.pixels import png
from service.segments import Segment, join_by_class, select

if TYPE_CHECKING:  # answers are made without pydantic, too
    from service.schemas import Format, Task

SCORE_DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a request asks of each of its images."""

    task: Task
    format: Format
    picture_only: bool = False  # the PNG as the body, instead of JSON
    class_indices: frozenset[int] | None = None  # None: all
    score_threshold: float | None = None  # None: the model's
    overlap_threshold: float | None = None
    views: int = 1  # see service/views.py

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes it of again, in another process."""
        indices = None if self.class_indices is None else sorted(self.class_indices)
        return {**asdict(self), "class_indices": indices}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Wish:
        """What `to_json` was made of."""
        indices = values["class_indices"]
        return cls(**{**values, "class_indices": None if indices is None else frozenset(indices)})


def tasks_of(metadata: ArtifactMetadata) -> list[Task]:
    """Tasks that an artifact answers."""
    return ["panoptic", "instance", "semantic"] if metadata.kind == "panoptic" else [metadata.kind]


def view(result: Result, wish: Wish, metadata: ArtifactMetadata) -> Result:
    """The result as the task sees it, with the categories wanted."""
    wanted = wanted_classes(wish, metadata)
    if isinstance(result, Instances):
        return select_instances(result, wanted)
    segmentation = select(result, wanted)
    return join_by_class(segmentation) if wish.task == "semantic" else segmentation


def wanted_classes(wish: Wish, metadata: ArtifactMetadata) -> frozenset[int]:
    """Indices of the categories that the wish asks for."""
    wanted = range(len(metadata.categories)) if wish.class_indices is None else wish.class_indices
    return frozenset(index for index in wanted if wish.task != "instance" or metadata.categories[index].is_thing)


def picture(image: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> bytes:
    """PNG file of the format wanted: `png` or `overlay`."""
    if wish.format == "png":
        assert not isinstance(result, Instances)  # requests for it are refused
        return panoptic_png(result.id_map)
    return png(draw_overlay(image, result, metadata, by_category=wish.task == "semantic"))


def document(image: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    """The JSON answer for one image, but for its timing; rings of polygons are arrays."""
    height, width = image.shape[:2]
    segments = [_describe(segment, wish, metadata) for segment in result.segments]
    if wish.format != "png":
        for described, segmentation in zip(segments, _segmentations(result, wish), strict=True):
            described["segmentation"] = segmentation
    answer: dict[str, Any] = {
        "model": metadata.name,
        "version": metadata.version,
        "task": wish.task,
        "image": {"width": width, "height": height},
        "segments": segments,
        "warnings": list(result.warnings),
    }
    if wish.format in ("png", "overlay"):
        answer[wish.format] = base64.b64encode(picture(image, result, wish, metadata)).decode("ascii")
    return answer


def _segmentations(result: Result, wish: Wish) -> Iterator[dict[str, Any]]:
    """The mask of each segment: COCO RLE, or a GeoJSON geometry."""
    if wish.format == "polygon":
        for coordinates in polygons.trace(result):
            yield {"type": "MultiPolygon", "coordinates": coordinates}
    elif isinstance(result, Instances):
        for counts in result.counts:
            yield {"size": list(result.image_size), "counts": counts}
    else:
        for counts in rle.encode(result.id_map, [segment.id for segment in result.segments]):
            yield {"size": list(result.id_map.shape), "counts": counts}


def _describe(segment: Segment, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    category = metadata.categories[segment.class_index]
    return {
        "id": segment.id,
        "category_id": category.id,
        "category": category.name,
        "is_thing": category.is_thing,
        # A class's region has none of its own, unless the graph gives one: it may be joined from several segments.
        "score": None if wish.task == "semantic" and not metadata.confidence else round(segment.score, SCORE_DECIMALS),
        "area": segment.area,
        "bbox": segment.bbox,
    }
