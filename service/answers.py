"""One result, asked for in one way: task, categories, format; and its bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service import rle
from service.artifact import ArtifactMetadata
from service.errors import InvalidParameterError
from service.instances import Instances, Result, select_instances
from service.overlay import draw_overlay, panoptic_png
from service.pixels import png
from service.segmenter import find_thresholds
from service.segments import Segment, join_by_class, select

if TYPE_CHECKING:  # answers are made without pydantic, too
    from service.schemas import Format, SegmentQuery, Task

_SCORE_DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a request asks of each of its images."""

    task: Task
    format: Format
    picture_only: bool  # the PNG as the body, instead of JSON
    class_indices: frozenset[int] | None  # None: all
    score_threshold: float | None
    overlap_threshold: float | None


def tasks_of(metadata: ArtifactMetadata) -> list[Task]:
    """Tasks that an artifact answers."""
    return ["panoptic", "instance", "semantic"] if metadata.kind == "panoptic" else [metadata.kind]


def read_wish(query: SegmentQuery, accept: str, metadata: ArtifactMetadata) -> Wish:
    """Check a query against the artifact; raises InvalidParameterError with what is legal."""
    task = query.task or metadata.kind
    if task not in tasks_of(metadata):
        raise InvalidParameterError(f"task {task} is not one of {metadata.name}: {', '.join(tasks_of(metadata))}")
    media_types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    wants_picture = "image/png" in media_types and "application/json" not in media_types
    output = query.format or ("png" if wants_picture else "rle")
    if output == "png" and metadata.kind == "instance":
        raise InvalidParameterError(
            f"the masks of {metadata.name} may overlap, and overlapping masks have no PNG form; "
            "name format=rle or format=overlay"
        )
    find_thresholds(metadata, score_threshold=query.score_threshold, overlap_threshold=query.overlap_threshold)
    return Wish(
        task=task,
        format=output,
        picture_only=wants_picture and output != "rle",
        class_indices=_find_categories(query.categories, metadata),
        score_threshold=query.score_threshold,
        overlap_threshold=query.overlap_threshold,
    )


def _find_categories(wanted: Iterable[str], metadata: ArtifactMetadata) -> frozenset[int] | None:
    names = [name.strip() for entry in wanted for name in entry.split(",") if name.strip()]
    if not names:
        return None
    by_name = {category.name: index for index, category in enumerate(metadata.categories)}
    by_name.update({str(category.id): index for index, category in enumerate(metadata.categories)})
    if unknown := [name for name in names if name not in by_name]:
        legal = ", ".join(f"{category.id} ({category.name})" for category in metadata.categories)
        raise InvalidParameterError(f"unknown categories {', '.join(unknown)}; this model has {legal}")
    return frozenset(by_name[name] for name in names)


def view(result: Result, wish: Wish, metadata: ArtifactMetadata) -> Result:
    """The result as the task sees it, with the categories wanted."""
    wanted = set(range(len(metadata.categories))) if wish.class_indices is None else set(wish.class_indices)
    if isinstance(result, Instances):
        return select_instances(result, wanted)
    if wish.task == "instance":
        wanted = {index for index in wanted if metadata.categories[index].is_thing}
    segmentation = select(result, wanted)
    return join_by_class(segmentation) if wish.task == "semantic" else segmentation


def picture(image: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> bytes:
    """PNG file of the format wanted: `png` or `overlay`."""
    if wish.format == "png":
        assert not isinstance(result, Instances)  # `read_wish` refuses it
        return panoptic_png(result.id_map)
    return png(draw_overlay(image, result, metadata, by_category=wish.task == "semantic"))


def document(image: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    """The JSON answer for one image, but for its timing."""
    height, width = image.shape[:2]
    segments = [_describe(segment, wish, metadata) for segment in result.segments]
    if wish.format != "png":
        for described, counts in zip(segments, _encode(result), strict=True):
            described["segmentation"] = {"size": [height, width], "counts": counts}
    answer: dict[str, Any] = {
        "model": metadata.name,
        "version": metadata.version,
        "task": wish.task,
        "image": {"width": width, "height": height},
        "segments": segments,
        "warnings": list(result.warnings),
    }
    if wish.format != "rle":
        answer[wish.format] = base64.b64encode(picture(image, result, wish, metadata)).decode("ascii")
    return answer


def _encode(result: Result) -> Sequence[str]:
    """COCO `counts` of each segment."""
    if isinstance(result, Instances):
        return result.counts
    return rle.encode(result.id_map, [segment.id for segment in result.segments])


def _describe(segment: Segment, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    category = metadata.categories[segment.class_index]
    return {
        "id": segment.id,
        "category_id": category.id,
        "category": category.name,
        "is_thing": category.is_thing,
        # A class's region has none of its own, unless the graph gives one: it may be joined from several segments.
        "score": None if wish.task == "semantic" and not metadata.confidence else round(segment.score, _SCORE_DECIMALS),
        "area": segment.area,
        "bbox": segment.bbox,
    }
