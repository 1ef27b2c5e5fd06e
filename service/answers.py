"""One result, asked for in one way: task, categories, format; and its bytes."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import rle
from service.artifact import ArtifactMetadata
from service.errors import InvalidParameterError
from service.overlay import draw_overlay, panoptic_png, png
from service.schemas import Format, SegmentQuery, Task
from service.segments import Segment, Segmentation, join_by_class, select

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


def view(segmentation: Segmentation, wish: Wish, metadata: ArtifactMetadata) -> Segmentation:
    """The panoptic result as the task sees it, with the categories wanted."""
    wanted = set(range(len(metadata.categories))) if wish.class_indices is None else set(wish.class_indices)
    if wish.task == "instance":
        wanted = {index for index in wanted if metadata.categories[index].is_thing}
    segmentation = select(segmentation, wanted)
    return join_by_class(segmentation) if wish.task == "semantic" else segmentation


def picture(image: NDArray[np.uint8], segmentation: Segmentation, wish: Wish, metadata: ArtifactMetadata) -> bytes:
    """PNG file of the format wanted: `png` or `overlay`."""
    if wish.format == "png":
        return panoptic_png(segmentation.id_map)
    return png(draw_overlay(image, segmentation, metadata, by_category=wish.task == "semantic"))


def document(
    image: NDArray[np.uint8], segmentation: Segmentation, wish: Wish, metadata: ArtifactMetadata
) -> dict[str, Any]:
    """The JSON answer for one image, but for its timing."""
    height, width = image.shape[:2]
    segments = [_describe(segment, wish, metadata) for segment in segmentation.segments]
    if wish.format != "png":
        counts = rle.encode(segmentation.id_map, [segment.id for segment in segmentation.segments])
        for described, text in zip(segments, counts, strict=True):
            described["segmentation"] = {"size": [height, width], "counts": text}
    result: dict[str, Any] = {
        "model": metadata.name,
        "version": metadata.version,
        "task": wish.task,
        "image": {"width": width, "height": height},
        "segments": segments,
        "warnings": list(segmentation.warnings),
    }
    if wish.format != "rle":
        result[wish.format] = base64.b64encode(picture(image, segmentation, wish, metadata)).decode("ascii")
    return result


def _describe(segment: Segment, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    category = metadata.categories[segment.class_index]
    return {
        "id": segment.id,
        "category_id": category.id,
        "category": category.name,
        "is_thing": category.is_thing,
        # A class's region, joined from segments of different scores, has none of its own.
        "score": None if wish.task == "semantic" else round(segment.score, _SCORE_DECIMALS),
        "area": segment.area,
        "bbox": segment.bbox,
    }
