"""Id-maps of overlapping tiles to one id-map of the whole image.

Each tile owns the cells up to the middle of its overlaps. A thing that lies on a seam has one segment in each
tile: two of them are the same thing if their IoU, both restricted to the cells that the two tiles share, is
at least 0.5. Stuff is joined by class. A thing that crosses the seam but that the neighbour did not see keeps
its cells beyond the seam where the neighbour has no thing, so that it is whole. The score of joined segments
is their maximum.

Shapes: T tiles of (h, w) cells, K segments of one tile, L segments of all tiles (labels 1..L, 0 = void).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.geometry import Plan

MIN_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class TileResult:
    """One tile's content: `id_map` (h, w) with ids 1..K; the other arrays (K) are of id 1, 2, ..."""

    id_map: NDArray[np.int32]
    class_index: NDArray[np.int64]
    score: NDArray[np.float64]
    is_thing: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The whole: `id_map` (h, w) with ids 1..J; `class_index` (J) and `score` (J) of id 1, 2, ..."""

    id_map: NDArray[np.int32]
    class_index: NDArray[np.int64]
    score: NDArray[np.float64]


@dataclass(frozen=True)
class _Window:
    """Rows and columns of the whole map, in cells."""

    top: int
    left: int
    bottom: int
    right: int

    def __and__(self, other: "_Window") -> "_Window":
        return _Window(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    @property
    def is_empty(self) -> bool:
        return self.top >= self.bottom or self.left >= self.right

    def within(self, outer: "_Window") -> tuple[slice, slice]:
        """Index of this window in an array that covers `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


def join_tiles(results: Sequence[TileResult], plan: Plan) -> Joined:
    """Join one result per tile of `plan`, in its order."""
    if len(results) == 1:
        only = results[0]
        return Joined(id_map=only.id_map, class_index=only.class_index, score=only.score)
    seen, owned = _windows(plan)
    offset = np.concatenate([[0], np.cumsum([len(result.class_index) for result in results])])
    pairs, matched = _match_things(results, seen, offset)
    whole = _draw_owned(results, seen, owned, offset, plan.num_cells)
    _draw_beyond_seams(whole, results, seen, owned, offset, matched)

    class_index = np.concatenate([result.class_index for result in results])
    score = np.concatenate([result.score for result in results])
    is_thing = np.concatenate([result.is_thing for result in results])
    for stuff_class in np.unique(class_index[~is_thing]):
        labels = np.flatnonzero(class_index == stuff_class) + 1
        pairs.extend((int(labels[0]), int(label)) for label in labels[1:])
    root = _union_find(len(class_index) + 1, pairs)
    roots, new_id = np.unique(root, return_inverse=True)  # void is its own root and stays 0
    best = np.zeros(len(roots))
    np.maximum.at(best, new_id[1:], score)
    return Joined(id_map=new_id.astype(np.int32)[whole], class_index=class_index[roots[1:] - 1], score=best[1:])


def _windows(plan: Plan) -> tuple[list[_Window], list[_Window]]:
    """What each tile sees, and what it owns: up to the middle of what it shares with its neighbours."""
    height, width = plan.num_cells
    rows = [plan.tiles[row * plan.num_columns] for row in range(plan.num_rows)]
    columns = plan.tiles[: plan.num_columns]
    spans = (
        [(tile.top // plan.stride, -(-(tile.top + tile.height) // plan.stride)) for tile in rows],
        [(tile.left // plan.stride, -(-(tile.left + tile.width) // plan.stride)) for tile in columns],
    )
    cuts = [
        [0, *((after[0] + before[1]) // 2 for before, after in pairwise(span)), length]
        for span, length in zip(spans, (height, width), strict=True)
    ]
    seen = [_Window(top, left, bottom, right) for top, bottom in spans[0] for left, right in spans[1]]
    owned = [
        _Window(top, left, bottom, right)
        for top, bottom in zip(cuts[0][:-1], cuts[0][1:], strict=True)
        for left, right in zip(cuts[1][:-1], cuts[1][1:], strict=True)
    ]
    return seen, owned


def _neighbours(seen: Sequence[_Window]) -> Iterator[tuple[int, int, _Window]]:
    """Pairs of tiles (first < second) that share cells, diagonal ones included, with what they share."""
    for first, window in enumerate(seen):
        for second in range(first + 1, len(seen)):
            if seen[second].top >= window.bottom:
                break
            shared = window & seen[second]
            if not shared.is_empty:
                yield first, second, shared


def _match_things(
    results: Sequence[TileResult], seen: Sequence[_Window], offset: NDArray[np.int64]
) -> tuple[list[tuple[int, int]], dict[tuple[int, int], tuple[NDArray[np.bool_], NDArray[np.bool_]]]]:
    """Pairs of labels that are the same thing; per pair of tiles, which ids (K + 1) found a partner."""
    pairs: list[tuple[int, int]] = []
    matched = {}
    for first, second, shared in _neighbours(seen):
        a, b = results[first], results[second]
        num_a, num_b = len(a.class_index) + 1, len(b.class_index) + 1
        ids_a = a.id_map[shared.within(seen[first])].astype(np.int64)
        ids_b = b.id_map[shared.within(seen[second])]
        # Shared cells of each pair of ids, those of void included: its margins are the areas.
        common = np.bincount((ids_a * num_b + ids_b).ravel(), minlength=num_a * num_b).reshape(num_a, num_b)
        area_a, area_b = common.sum(1), common.sum(0)
        found = [np.zeros(num_a, np.bool_), np.zeros(num_b, np.bool_)]
        for id_a, id_b in np.argwhere(common[1:, 1:]) + 1:
            inter = common[id_a, id_b]
            iou = inter / (area_a[id_a] + area_b[id_b] - inter)
            same_class = a.class_index[id_a - 1] == b.class_index[id_b - 1]
            if iou >= MIN_IOU and same_class and a.is_thing[id_a - 1]:
                pairs.append((int(offset[first] + id_a), int(offset[second] + id_b)))
                found[0][id_a] = found[1][id_b] = True
        matched[first, second] = (found[0], found[1])
    return pairs, matched


def _labels(result: TileResult, offset: int) -> NDArray[np.int32]:
    """Label of each id (K + 1) of one tile."""
    labels = np.arange(offset, offset + len(result.class_index) + 1, dtype=np.int32)
    labels[0] = 0
    return labels


def _draw_owned(
    results: Sequence[TileResult],
    seen: Sequence[_Window],
    owned: Sequence[_Window],
    offset: NDArray[np.int64],
    num_cells: tuple[int, int],
) -> NDArray[np.int32]:
    """Labels (h, w) of the whole image, each cell by its owner."""
    whole = np.zeros(num_cells, np.int32)
    frame = _Window(0, 0, *num_cells)
    for index, result in enumerate(results):
        ids = result.id_map[owned[index].within(seen[index])]
        whole[owned[index].within(frame)] = _labels(result, int(offset[index]))[ids]
    return whole


def _draw_beyond_seams(
    whole: NDArray[np.int32],
    results: Sequence[TileResult],
    seen: Sequence[_Window],
    owned: Sequence[_Window],
    offset: NDArray[np.int64],
    matched: dict[tuple[int, int], tuple[NDArray[np.bool_], NDArray[np.bool_]]],
) -> None:
    """Complete, in place, the things that cross a seam and have no partner beyond it."""
    frame = _Window(0, 0, *whole.shape)
    is_thing = np.concatenate([[False], *(result.is_thing for result in results)])
    for (first, second), found in matched.items():
        for mine, other, partnered in ((first, second, found[0]), (second, first, found[1])):
            result = results[mine]
            beyond = seen[mine] & owned[other]
            if beyond.is_empty:
                continue
            crosses = np.zeros(len(partnered), np.bool_)
            crosses[np.unique(result.id_map[owned[mine].within(seen[mine])])] = True
            crosses[1:] &= result.is_thing
            crosses &= ~partnered
            crosses[0] = False
            ids = result.id_map[beyond.within(seen[mine])]
            target = whole[beyond.within(frame)]
            free = crosses[ids] & ~is_thing[target]
            target[free] = _labels(result, int(offset[mine]))[ids[free]]


def _union_find(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Smallest member of each one's group."""
    parent = list(range(count))

    def find(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for one, two in pairs:
        low, high = sorted((find(one), find(two)))
        parent[high] = low
    return np.array([find(member) for member in range(count)], np.int64)
