"""Masks that may overlap: from the logits of an instance graph to run-length codes, one mask at a time.

Shapes: M masks of (h, w) cells on an H x W canvas; K entries, each a class of one mask.

No mask is ever held at the posted size: its last enlargement is made in strips of columns, of which only the runs are
kept, so that memory is bounded whatever the number of masks. All images are transposed for it, as COCO counts pixels
column by column; bilinear scaling works on each side by itself and takes no notice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import rle
from service.geometry import Plan
from service.pixels import resize_map
from service.segments import Segment, Segmentation

_STRIP_PIXELS = 2**20
_MASK_THRESHOLD = 0.5  # of probabilities; a pixel must exceed it


@dataclass(frozen=True, kw_only=True)
class Instances:
    """One image's answer, where masks may overlap: segments by descending score.

    `counts`: COCO RLE of each segment, at the posted size `image_size` (H, W).
    """

    image_size: tuple[int, int]
    segments: tuple[Segment, ...]
    counts: tuple[str, ...]
    warnings: tuple[str, ...] = ()


Result = Segmentation | Instances


@dataclass(frozen=True, kw_only=True)
class _Mask:
    """A mask that has a pixel, at the posted size; `bbox` is (x, y, width, height)."""

    counts: str
    area: int
    bbox: tuple[int, int, int, int]


def read_instances(
    outputs: Mapping[str, NDArray[Any]], plan: Plan, *, mask_upsample: int, score_threshold: float
) -> Instances:
    """The masks of one canvas' outputs, at the posted size.

    Args:
        outputs: `score`, `class_index`, `mask_index` (K), by descending score, and `mask_logits` (M, h, w).
        plan: of one canvas.
        mask_upsample: by how much the logits are enlarged before they become probabilities.
        score_threshold: the least score of an entry; one whose mask is empty is dropped whatever its score.
    """
    found: dict[int, _Mask | None] = {}
    segments: list[Segment] = []
    counts: list[str] = []
    for entry in np.flatnonzero(outputs["score"] >= score_threshold).tolist():
        row = int(outputs["mask_index"][entry])
        if row not in found:
            found[row] = _make_mask(outputs["mask_logits"][row], plan, mask_upsample)
        mask = found[row]
        if mask is None:
            continue
        counts.append(mask.counts)
        segments.append(
            Segment(
                id=len(counts),
                class_index=int(outputs["class_index"][entry]),
                score=float(outputs["score"][entry]),
                area=mask.area,
                bbox=mask.bbox,
            )
        )
    return Instances(image_size=plan.image_size, segments=tuple(segments), counts=tuple(counts))


def select_instances(instances: Instances, class_indices: Iterable[int]) -> Instances:
    """Only the segments of these classes, renumbered from 1."""
    wanted = set(class_indices)
    kept = [
        (segment, counts)
        for segment, counts in zip(instances.segments, instances.counts, strict=True)
        if segment.class_index in wanted
    ]
    return replace(
        instances,
        segments=tuple(replace(segment, id=number) for number, (segment, _) in enumerate(kept, start=1)),
        counts=tuple(counts for _, counts in kept),
    )


def stack(instances: Instances) -> NDArray[np.int32]:
    """Id (H, W) of the mask of the best score at each pixel; 0 where there is none."""
    result = np.zeros(instances.image_size, np.int32)
    for segment, counts in zip(reversed(instances.segments), reversed(instances.counts), strict=True):
        x, y, width, height = segment.bbox
        window = slice(y, y + height), slice(x, x + width)
        result[window][rle.decode(counts, instances.image_size)[window]] = segment.id
    return result


def _make_mask(logits: NDArray[np.float32], plan: Plan, mask_upsample: int) -> _Mask | None:
    """Logits (h, w) of the canvas to a mask of the posted image; None for an empty one."""
    height, width = plan.image_size
    content_height, content_width = plan.scaled_size
    cells = logits.T
    cells = _resize(np.ascontiguousarray(cells), cells.shape[0] * mask_upsample, cells.shape[1] * mask_upsample)
    with np.errstate(over="ignore"):  # far below zero the exponential is infinite, and the probability 0
        probs = np.asarray(1 / (1 + np.exp(-cells)), np.float32)
    probs = _resize(probs, plan.canvas_size[1], plan.canvas_size[0])[:content_width, :content_height]
    probs = _resize(probs, width, content_height)
    # A weighted mean exceeds the threshold only where one of its terms does.
    seen = np.flatnonzero((probs > _MASK_THRESHOLD).any(axis=1))
    if not len(seen):
        return None
    bounds = _find_runs(probs, int(seen[0]), int(seen[-1]) + 1, height)
    starts, ends = bounds[::2], bounds[1::2]
    if not len(starts):
        return None
    counts = rle.encode_runs(starts, ends, height * width)
    return _Mask(counts=counts, area=int((ends - starts).sum()), bbox=_bbox(starts, ends, height))


def _resize(array: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Bilinear; the same array where nothing changes."""
    return array if array.shape == (rows, columns) else resize_map(array, (rows, columns))


def _find_runs(probs: NDArray[np.float32], begin: int, end: int, height: int) -> NDArray[np.int64]:
    """Where runs start and end in turn (2 R), in pixels counted column by column.

    Args:
        probs: (W, content height), at the posted width.
        begin, end: the columns outside of which there is no run.
        height: the posted one.
    """
    step = max(1, _STRIP_PIXELS // height)
    bounds: list[NDArray[np.int64]] = []
    was_inside = False
    for left in range(begin, end, step):
        right = min(left + step, end)
        inside = (_resize(probs[left:right], right - left, height) > _MASK_THRESHOLD).ravel()
        if inside[0] != was_inside:
            bounds.append(np.array([left * height]))
        bounds.append(np.flatnonzero(inside[1:] != inside[:-1]) + 1 + left * height)
        was_inside = bool(inside[-1])
    if was_inside:
        bounds.append(np.array([end * height]))
    return np.concatenate(bounds)


def _bbox(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """Box (x, y, width, height) of runs in columns of `height`."""
    first_column, first_row = np.divmod(starts, height)
    last_column, last_row = np.divmod(ends - 1, height)
    x, y = int(first_column[0]), int(first_row.min())
    bottom = int(last_row.max()) + 1
    if (last_column > first_column).any():  # from one column's end to the start of the next
        y, bottom = 0, height
    return x, y, int(last_column[-1]) + 1 - x, bottom - y
