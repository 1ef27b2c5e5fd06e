"""Id-maps of overlapping tiles to one id-map of the whole image.

Each tile owns the cells up to the middle of its overlaps. A thing that lies on a seam has one segment in each
tile: two of them are the same thing if their IoU, both restricted to the cells that the two tiles share, is
at least 0.5. Stuff is joined by class. A thing that crosses the seam but that the neighbour did not see keeps
its cells beyond the seam where the neighbour has no thing, so that it is whole. The score of joined segments
is their maximum.

Shapes: T tiles of (h, w) cells, K segments of one tile, L segments of all tiles (labels 1..L, 0 = void).
"""

from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """One tile in its place: its result, what it sees and owns of the whole, and its ids' labels (K + 1)."""

    result: TileResult
    seen: _Window
    owned: _Window
    labels: NDArray[np.int32]

    def ids_in(self, window: _Window) -> NDArray[np.int32]:
        """Ids (h, w) in a window that the tile sees."""
        return self.result.id_map[window.within(self.seen)]


# Of two tiles: which ids (K + 1) of each have a partner in the other.
_Partnered = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def join_tiles(results: Sequence[TileResult], plan: Plan) -> Joined:
    """Join one result per tile of `plan`, in its order."""
    if len(results) == 1:
        only = results[0]
        return Joined(id_map=only.id_map, class_index=only.class_index, score=only.score)
    pieces = _place(results, plan)
    class_index = np.concatenate([result.class_index for result in results])
    score = np.concatenate([result.score for result in results])
    is_thing = np.concatenate([result.is_thing for result in results])

    pairs: list[tuple[int, int]] = []
    partnered = {}
    for first, second, shared in _neighbours(pieces):
        same, partnered[first, second] = _match_things(pieces[first], pieces[second], shared)
        pairs.extend(same)
    for stuff_class in np.unique(class_index[~is_thing]):
        labels = (np.flatnonzero(class_index == stuff_class) + 1).tolist()
        pairs.extend((labels[0], label) for label in labels[1:])
    root = _union_find(len(class_index) + 1, pairs)
    roots, new_id = np.unique(root, return_inverse=True)  # void is its own root and stays 0
    best = np.zeros(len(roots))
    np.maximum.at(best, new_id[1:], score)

    whole = np.zeros(plan.num_cells, np.int32)
    for piece in pieces:
        whole[piece.owned.within(_frame(whole))] = piece.labels[piece.ids_in(piece.owned)]
    _draw_beyond_seams(whole, pieces, partnered, np.append(False, is_thing))
    return Joined(id_map=new_id.astype(np.int32)[whole], class_index=class_index[roots[1:] - 1], score=best[1:])


def _place(results: Sequence[TileResult], plan: Plan) -> list[_Piece]:
    """Each tile owns its cells up to the middle of what it shares with its neighbours."""
    rows = [plan.tiles[row * plan.num_columns] for row in range(plan.num_rows)]
    columns = plan.tiles[: plan.num_columns]
    spans = (
        [(tile.top // plan.stride, -(-(tile.top + tile.height) // plan.stride)) for tile in rows],
        [(tile.left // plan.stride, -(-(tile.left + tile.width) // plan.stride)) for tile in columns],
    )
    shares = []
    for span, length in zip(spans, plan.num_cells, strict=True):
        cuts = [0, *((after[0] + before[1]) // 2 for before, after in pairwise(span)), length]
        shares.append(list(pairwise(cuts)))
    seen = [_Window(top, left, bottom, right) for top, bottom in spans[0] for left, right in spans[1]]
    owned = [_Window(top, left, bottom, right) for top, bottom in shares[0] for left, right in shares[1]]
    pieces = []
    offset = 0
    for result, view, share in zip(results, seen, owned, strict=True):
        labels = np.arange(offset, offset + len(result.class_index) + 1, dtype=np.int32)
        labels[0] = 0
        pieces.append(_Piece(result=result, seen=view, owned=share, labels=labels))
        offset += len(result.class_index)
    return pieces


def _neighbours(pieces: Sequence[_Piece]) -> Iterator[tuple[int, int, _Window]]:
    """Pairs of tiles (first < second) that share cells, diagonal ones included, with what they share."""
    for first, piece in enumerate(pieces):
        for second in range(first + 1, len(pieces)):
            if pieces[second].seen.top >= piece.seen.bottom:
                break
            shared = piece.seen & pieces[second].seen
            if not shared.is_empty:
                yield first, second, shared


def _match_things(a: _Piece, b: _Piece, shared: _Window) -> tuple[list[tuple[int, int]], _Partnered]:
    """Pairs of labels that are the same thing, and which ids have a partner."""
    num_a, num_b = len(a.labels), len(b.labels)
    codes = a.ids_in(shared).astype(np.int64) * num_b + b.ids_in(shared)
    # Shared cells of each pair of ids, those of void included: its margins are the areas.
    common = np.bincount(codes.ravel(), minlength=num_a * num_b).reshape(num_a, num_b)
    id_a, id_b = np.nonzero(common)
    inter = common[id_a, id_b]
    iou = inter / (common.sum(1)[id_a] + common.sum(0)[id_b] - inter)
    near = (iou >= MIN_IOU) & (id_a > 0) & (id_b > 0)
    id_a, id_b = id_a[near], id_b[near]
    same = a.result.is_thing[id_a - 1] & (a.result.class_index[id_a - 1] == b.result.class_index[id_b - 1])
    id_a, id_b = id_a[same], id_b[same]
    pairs = list(zip(a.labels[id_a].tolist(), b.labels[id_b].tolist(), strict=True))
    return pairs, (np.isin(np.arange(num_a), id_a), np.isin(np.arange(num_b), id_b))


def _draw_beyond_seams(
    whole: NDArray[np.int32],
    pieces: Sequence[_Piece],
    partnered: Mapping[tuple[int, int], _Partnered],
    is_thing: NDArray[np.bool_],
) -> None:
    """Complete, in place, the things that cross a seam and have no partner beyond it; `is_thing` of each label."""
    owns = [_things_in(piece, piece.owned) for piece in pieces]
    for (first, second), (of_first, of_second) in partnered.items():
        for mine, other, has_partner in ((first, second, of_first), (second, first, of_second)):
            piece = pieces[mine]
            beyond = piece.seen & pieces[other].owned
            crosses = owns[mine] & ~has_partner
            if beyond.is_empty or not crosses.any():
                continue
            ids = piece.ids_in(beyond)
            target = whole[beyond.within(_frame(whole))]
            free = crosses[ids] & ~is_thing[target]
            target[free] = piece.labels[ids[free]]


def _things_in(piece: _Piece, window: _Window) -> NDArray[np.bool_]:
    """Which ids (K + 1) are things with a cell in the window."""
    num_cells = np.bincount(piece.ids_in(window).ravel(), minlength=len(piece.labels))
    return np.asarray((num_cells > 0) & np.append(False, piece.result.is_thing))


def _frame(whole: NDArray[np.int32]) -> _Window:
    """The window of the whole map."""
    return _Window(0, 0, *whole.shape)


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
