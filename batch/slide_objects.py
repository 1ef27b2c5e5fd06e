"""The segments of a slide, from labels of rows of tiles: what is the same, what is kept, its number, area and box.

Letters: L labels (0 = void), J segments (ids 1..J); bands are labels (h, W) of some rows of pixels, from top to bottom.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry import Plan
from service.join import RowJoin, TileResult
from service.segments import measure

Bands = Iterable[tuple[int, NDArray[np.int32]]]  # the first row of each, and its labels


@dataclass(frozen=True, kw_only=True)
class SlideObjects:
    """`id_of` (L + 1): the segment of each label, 0 where it is void; the others (J) are of id 1, 2, ...

    Ids are by descending score, as in images; `box` (J, 4) is x, y, width and height.
    """

    id_of: NDArray[np.int32]
    class_index: NDArray[np.int64]
    score: NDArray[np.float64]
    area: NDArray[np.int64]
    box: NDArray[np.int64]


def pixel_bands(
    join: RowJoin, rows: Iterable[Sequence[TileResult]], plan: Plan
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Bands of a plan whose image is not scaled."""
    height, width = plan.image_size
    for top, cells in join.bands(rows):
        top *= plan.stride
        band = cells
        if plan.stride > 1:
            band = np.repeat(np.repeat(cells, plan.stride, 0), plan.stride, 1)[: height - top, :width]
        yield top, band


def find_objects(
    rows: Iterable[Sequence[TileResult]],
    plan: Plan,
    *,
    min_areas: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    wanted: frozenset[int],
    by_class: bool,
) -> SlideObjects:
    """Join the tiles and number what is kept, as `from_id_map`, `select` and `join_by_class` do.

    Args:
        rows: results of the rows of tiles.
        plan: of the slide.
        min_areas: fewest pixels of segments of each class (K).
        wanted: classes.
        by_class: one segment a class.
    """
    join = RowJoin(plan)
    extents = _Extents()
    for top, band in pixel_bands(join, rows, plan):
        extents.add(top, band)
    groups = join.groups()
    extents.reserve(len(groups.id_of))
    num = len(groups.class_index) + 1
    found = extents.regroup(groups.id_of, num)
    kept = np.append(False, (found.area[1:] >= np.maximum(min_areas(groups.class_index), 1)))
    kept[1:] &= np.isin(groups.class_index, list(wanted))
    objects = _number(groups.id_of, groups.class_index, groups.score, found, kept)
    return _by_class(objects) if by_class else objects


class _Extents:
    """Area and corners (low and past the end; rows, then columns) of labels, which become more."""

    def __init__(self, count: int = 0) -> None:
        self.area = np.zeros(0, np.int64)
        self.low = np.zeros((2, 0), np.int64)
        self.high = np.zeros((2, 0), np.int64)
        self.reserve(count)

    def reserve(self, count: int) -> None:
        """Have at least `count` of them."""
        more = count - len(self.area)
        if more > 0:
            self.area = np.append(self.area, np.zeros(more, np.int64))
            self.low = np.append(self.low, np.full((2, more), np.iinfo(np.int64).max), 1)
            self.high = np.append(self.high, np.zeros((2, more), np.int64), 1)

    def add(self, top: int, band: NDArray[np.int32]) -> None:
        """Count a band's pixels."""
        is_label = band > 0
        if not is_label.any():
            return
        first, last = int(band[is_label].min()), int(band.max())
        area, box = measure(np.where(is_label, band - (first - 1), 0), last - first + 2)
        seen = np.flatnonzero(area[1:]) + 1
        labels = seen + first - 1
        self.reserve(last + 1)
        self.area[labels] += area[seen]
        x, y, width, height = box[seen].T
        self.low[:, labels] = np.minimum(self.low[:, labels], np.stack([y + top, x]))
        self.high[:, labels] = np.maximum(self.high[:, labels], np.stack([y + top + height, x + width]))

    def regroup(self, group_of: NDArray[np.integer], count: int) -> "_Extents":
        """Those of `count` groups; `group_of` names the group of each that is here."""
        result = _Extents(count)
        np.add.at(result.area, group_of, self.area)
        for axis in range(2):
            np.minimum.at(result.low[axis], group_of, self.low[axis])
            np.maximum.at(result.high[axis], group_of, self.high[axis])
        return result


def _number(
    id_of: NDArray[np.int32],
    class_index: NDArray[np.int64],
    score: NDArray[np.float64],
    extents: _Extents,
    kept: NDArray[np.bool_],
) -> SlideObjects:
    """The ids (J + 1, 0 is void) that are `kept`, by descending score, then by what they were."""
    order = np.flatnonzero(kept)
    order = order[np.argsort(-score[order - 1], kind="stable")]
    new_id = np.zeros(len(kept), np.int32)
    new_id[order] = np.arange(1, len(order) + 1)
    low, size = extents.low[:, order], extents.high[:, order] - extents.low[:, order]
    return SlideObjects(
        id_of=new_id[id_of],
        class_index=class_index[order - 1],
        score=score[order - 1],
        area=extents.area[order],
        box=np.stack([low[1], low[0], size[1], size[0]], axis=1),
    )


def _by_class(objects: SlideObjects) -> SlideObjects:
    """One segment a class, of its best score."""
    classes, position = np.unique(objects.class_index, return_inverse=True)
    group_of = np.append(0, position + 1)  # of ids 0..J
    extents = _Extents(len(group_of))
    extents.area[1:] = objects.area
    x, y, width, height = objects.box.T
    extents.low[:, 1:], extents.high[:, 1:] = [y, x], [y + height, x + width]
    score = np.zeros(len(classes))
    np.maximum.at(score, position, objects.score)
    found = extents.regroup(group_of, len(classes) + 1)
    kept = np.append(False, np.ones(len(classes), np.bool_))
    return _number(group_of[objects.id_of].astype(np.int32), classes, score, found, kept)
