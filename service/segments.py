"""From an id-map to the segments that are answered, and the three tasks seen in one panoptic result."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEMANTIC_SCORE = 1.0  # of every segment of a semantic artifact without confidence; answers say null


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One region; `bbox` is (x, y, width, height) in whole pixels."""

    id: int
    class_index: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """One image's answer: `id_map` (H, W) at the posted size, 0 = void; segments by descending score."""

    id_map: NDArray[np.int32]
    segments: tuple[Segment, ...]
    warnings: tuple[str, ...] = ()


def from_id_map(
    id_map: NDArray[np.int32],
    class_index: Sequence[int] | NDArray[np.integer],
    score: Sequence[float] | NDArray[np.floating],
    *,
    min_area: NDArray[np.integer] | int = 1,
    warnings: Iterable[str] = (),
) -> Segmentation:
    """Number the segments of `id_map` (H, W) by descending score (ties by first id), with area and bbox.

    Id `i` of the map has `class_index[i - 1]` and `score[i - 1]`; ids of fewer pixels than `min_area` (one for all, or
    `min_area[i - 1]`), and those without any, are dropped: void.

    >>> result = from_id_map(np.array([[0, 2], [1, 2]], np.int32), [0, 0], [0.5, 0.9])
    >>> result.id_map.tolist(), [(s.id, s.score, s.bbox) for s in result.segments]
    ([[0, 1], [2, 1]], [(1, 0.9, (1, 0, 1, 2)), (2, 0.5, (0, 1, 1, 1))])
    """
    classes = np.asarray(class_index, np.int64)
    scores = np.asarray(score, np.float64)
    area, boxes = measure(id_map, len(classes) + 1)
    present = np.flatnonzero(area[1:] >= np.maximum(min_area, 1))
    order = present[np.argsort(-scores[present], kind="stable")]
    new_id = np.zeros(len(classes) + 1, np.int32)
    new_id[order + 1] = np.arange(1, len(order) + 1)
    segments = tuple(
        Segment(
            id=number,
            class_index=int(classes[index]),
            score=float(scores[index]),
            area=int(area[index + 1]),
            bbox=tuple(boxes[index + 1].tolist()),
        )
        for number, index in enumerate(order, start=1)
    )
    if not np.array_equal(new_id, np.arange(len(new_id))):  # a map of the same ids is not made again
        id_map = np.take(new_id, id_map)
    return Segmentation(id_map=id_map, segments=segments, warnings=tuple(warnings))


def select(segmentation: Segmentation, class_indices: Iterable[int]) -> Segmentation:
    """Only the segments of these classes, renumbered from 1; the rest becomes void."""
    wanted = set(class_indices)
    kept = [segment for segment in segmentation.segments if segment.class_index in wanted]
    if len(kept) == len(segmentation.segments):
        return segmentation
    new_id = np.zeros(len(segmentation.segments) + 1, np.int32)
    new_id[[segment.id for segment in kept]] = np.arange(1, len(kept) + 1)
    segments = tuple(
        Segment(id=i, class_index=s.class_index, score=s.score, area=s.area, bbox=s.bbox)
        for i, s in enumerate(kept, start=1)
    )
    return Segmentation(id_map=new_id[segmentation.id_map], segments=segments, warnings=segmentation.warnings)


def join_by_class(segmentation: Segmentation) -> Segmentation:
    """The semantic view: one segment a class, of its best score, ordered by that."""
    classes = sorted({segment.class_index for segment in segmentation.segments})
    new_id = np.zeros(len(segmentation.segments) + 1, np.int32)
    scores = np.zeros(len(classes))
    for segment in segmentation.segments:
        position = classes.index(segment.class_index)
        new_id[segment.id] = position + 1
        scores[position] = max(scores[position], segment.score)
    return from_id_map(new_id[segmentation.id_map], classes, scores, warnings=segmentation.warnings)


def measure(id_map: NDArray[np.int32], num_ids: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Area (num_ids) and bbox (num_ids, 4) of each id of a map (H, W), from the runs along its rows."""
    height, width = id_map.shape
    is_start = np.empty((height, width), np.bool_)
    is_start[:, 0] = True
    np.not_equal(id_map[:, 1:], id_map[:, :-1], out=is_start[:, 1:])
    starts = np.flatnonzero(is_start)
    ids = id_map.ravel()[starts]
    lengths = np.diff(starts, append=height * width)
    rows, left = np.divmod(starts, width)
    area = np.zeros(num_ids, np.int64)
    np.add.at(area, ids, lengths)
    low = np.full((2, num_ids), max(height, width), np.int64)
    high = np.zeros((2, num_ids), np.int64)
    for axis, (first, end) in enumerate(((left, left + lengths), (rows, rows + 1))):
        np.minimum.at(low[axis], ids, first)
        np.maximum.at(high[axis], ids, end)
    return area, np.concatenate([low, high - low]).T
