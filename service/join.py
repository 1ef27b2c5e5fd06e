"""Id-maps of overlapping tiles to one id-map of the whole image, a row of tiles after the other.

Each tile owns the cells up to the middle of its overlaps. A thing that lies on a seam has one segment in each
tile: two of them are the same thing if their IoU, both restricted to the cells that the two tiles share, is
at least 0.5. Stuff is joined by class. A thing that crosses the seam but that the neighbour did not see keeps
its cells beyond the seam where the neighbour has no thing, so that it is whole. The score of joined segments
is their maximum.

Shapes: T tiles of (h, w) cells, K segments of one tile, L segments of all tiles (labels 1..L, 0 = void), J segments
once they are joined (ids 1..J).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.geometry import Plan

MIN_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class TileResult:
    """One tile's content: `id_map` (h, w) with ids 1..K; the other arrays (K) are of id 1, 2, ..."""

    id_map: NDArray[np.integer]
    class_index: NDArray[np.int64]
    score: NDArray[np.float64]
    is_thing: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The whole: `id_map` (h, w) with ids 1..J; `class_index` (J) and `score` (J) of id 1, 2, ..."""

    id_map: NDArray[np.int32]
    class_index: NDArray[np.int64]
    score: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which labels are the same segment: `id_of` (L + 1) is the id of label 0, 1, ...; the others (J) of id 1, ..."""

    id_of: NDArray[np.int32]
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """One tile in its place: its result, what it sees and owns of the whole, and its ids' labels (K + 1).

    `things`: which ids (K + 1) are things with a cell of its own. `neighbours`: each that shares cells with it, after
    its place among all tiles, with which of the neighbour's ids have a partner here.
    """

    result: TileResult
    seen: _Window
    owned: _Window
    labels: NDArray[np.int32]
    things: NDArray[np.bool_]
    neighbours: list[tuple[int, "_Piece", NDArray[np.bool_]]] = field(default_factory=list)

    def ids_in(self, window: _Window) -> NDArray[np.integer]:
        """Ids (h, w) in a window that the tile sees."""
        return self.result.id_map[window.within(self.seen)]


def join_tiles(results: Sequence[TileResult], plan: Plan) -> Joined:
    """Join one result per tile of `plan`, in its order."""
    if len(results) == 1:
        only = results[0]
        return Joined(id_map=only.id_map.astype(np.int32), class_index=only.class_index, score=only.score)
    columns = plan.num_columns
    rows = [results[begin : begin + columns] for begin in range(0, len(results), columns)]
    join = RowJoin(plan)
    whole = np.empty(plan.num_cells, np.int32)
    for top, band in join.bands(rows):
        whole[top : top + len(band)] = band
    groups = join.groups()
    return Joined(id_map=groups.id_of[whole], class_index=groups.class_index, score=groups.score)


class RowJoin:
    """Joins the tiles of a plan row by row; holds the rows that share cells with one that is not done, no more.

    Of each segment it keeps some numbers until the end, as only then it is known which are the same.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows, self._columns = _spans(plan)
        self._num_labels = 0
        self._class_index: list[NDArray[np.int64]] = []
        self._score: list[NDArray[np.float64]] = []
        self._is_thing = np.zeros(1, np.bool_)  # of labels 0..L
        self._pairs: list[tuple[int, int]] = []
        self._stuff: dict[int, int] = {}  # class to its first label

    def bands(self, rows: Iterable[Sequence[TileResult]]) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """The first row (in cells) and the labels (h, W) of what each row of tiles owns, from top to bottom.

        `rows`: results of each row of tiles, from left to right.
        """
        live: dict[int, list[_Piece]] = {}
        done = 0
        for row, results in enumerate(rows):
            live[row] = self._place(row, results)
            for other, pieces in live.items():
                if self._rows[other].end > self._rows[row].begin:
                    self._match(other, pieces, row, live[row])
            while done <= row and self._rows[done].end <= self._next_begin(row):
                yield self._rows[done].own_begin, self._finish(live[done])
                done += 1
            for old in [number for number in live if number < done and self._is_over(number, done)]:
                del live[old]

    def groups(self) -> Groups:
        """Which labels are the same; once all bands are made."""
        root = _union_find(self._num_labels + 1, self._pairs)
        roots, id_of = np.unique(root, return_inverse=True)  # void is its own root and stays 0
        best = np.zeros(len(roots))
        np.maximum.at(best, id_of[1:], np.concatenate(self._score))
        class_index = np.concatenate(self._class_index)[roots[1:] - 1]
        return Groups(id_of=id_of.astype(np.int32), class_index=class_index, score=best[1:])

    def _next_begin(self, row: int) -> int:
        """Where the row of tiles after `row` begins; all cells above it are known."""
        return self._rows[row + 1].begin if row + 1 < len(self._rows) else self._plan.num_cells[0]

    def _is_over(self, row: int, done: int) -> bool:
        """Whether no row from `done` on shares cells with `row`."""
        return done >= len(self._rows) or self._rows[done].begin >= self._rows[row].end

    def _place(self, row: int, results: Sequence[TileResult]) -> list[_Piece]:
        """The pieces of a row, with labels of their own."""
        pieces = []
        down = self._rows[row]
        for result, across in zip(results, self._columns, strict=True):
            seen = _Window(down.begin, across.begin, down.end, across.end)
            owned = _Window(down.own_begin, across.own_begin, down.own_end, across.own_end)
            count = len(result.class_index)
            labels = np.arange(self._num_labels, self._num_labels + count + 1, dtype=np.int32)
            labels[0] = 0
            num_cells = np.bincount(result.id_map[owned.within(seen)].ravel(), minlength=count + 1)
            things = np.asarray((num_cells > 0) & np.append(False, result.is_thing))
            pieces.append(_Piece(result=result, seen=seen, owned=owned, labels=labels, things=things))
            for index in np.flatnonzero(~result.is_thing).tolist():
                label = self._num_labels + index + 1
                first = self._stuff.setdefault(int(result.class_index[index]), label)
                if first != label:
                    self._pairs.append((first, label))
            self._num_labels += count
        self._class_index += [result.class_index for result in results]
        self._score += [result.score for result in results]
        self._is_thing = np.concatenate([self._is_thing, *(result.is_thing for result in results)])
        return pieces

    def _match(self, first_row: int, firsts: Sequence[_Piece], second_row: int, seconds: Sequence[_Piece]) -> None:
        """Find what the tiles of two rows, or of one, have in common, diagonal neighbours included."""
        columns = len(self._columns)
        for column, second in enumerate(seconds):
            for other, first in enumerate(firsts):
                if first_row == second_row and other >= column:
                    break
                if self._columns[other].end <= self._columns[column].begin:
                    continue
                if self._columns[other].begin >= self._columns[column].end:
                    break
                same, of_first, of_second = _match_things(first, second, first.seen & second.seen)
                self._pairs.extend(same)
                first.neighbours.append((second_row * columns + column, second, of_second))
                second.neighbours.append((first_row * columns + other, first, of_first))

    def _finish(self, pieces: Sequence[_Piece]) -> NDArray[np.int32]:
        """Labels (h, W) of what a row's pieces own."""
        band = np.empty((pieces[0].owned.bottom - pieces[0].owned.top, self._plan.num_cells[1]), np.int32)
        for piece in pieces:
            cells = band[:, piece.owned.left : piece.owned.right]
            cells[...] = piece.labels[piece.ids_in(piece.owned)]
            self._draw_beyond_seams(cells, piece)
            piece.neighbours.clear()  # neighbours hold each other, and would wait for the garbage collector
        return band

    def _draw_beyond_seams(self, cells: NDArray[np.int32], piece: _Piece) -> None:
        """Complete, in place, what crosses a seam into the piece's own cells and has no partner there."""
        for _, other, has_partner in sorted(piece.neighbours, key=lambda entry: entry[0]):
            beyond = other.seen & piece.owned
            crosses = other.things & ~has_partner
            if beyond.is_empty or not crosses.any():
                continue
            ids = other.ids_in(beyond)
            target = cells[beyond.within(piece.owned)]
            free = crosses[ids] & ~self._is_thing[target]
            target[free] = other.labels[ids[free]]


@dataclass(frozen=True, kw_only=True)
class _Span:
    """What a row or a column of tiles sees of one axis, and which of it is its own, in cells."""

    begin: int
    end: int
    own_begin: int
    own_end: int


def _spans(plan: Plan) -> tuple[list[_Span], list[_Span]]:
    """Rows and columns of tiles: each owns its cells up to the middle of what it shares with its neighbours."""
    rows = [plan.tiles[row * plan.num_columns] for row in range(plan.num_rows)]
    columns = plan.tiles[: plan.num_columns]
    seen = (
        [(tile.top // plan.stride, -(-(tile.top + tile.height) // plan.stride)) for tile in rows],
        [(tile.left // plan.stride, -(-(tile.left + tile.width) // plan.stride)) for tile in columns],
    )
    result = []
    for spans, length in zip(seen, plan.num_cells, strict=True):
        cuts = [0, *((after[0] + before[1]) // 2 for before, after in pairwise(spans)), length]
        result.append(
            [
                _Span(begin=begin, end=end, own_begin=own_begin, own_end=own_end)
                for (begin, end), (own_begin, own_end) in zip(spans, pairwise(cuts), strict=True)
            ]
        )
    return result[0], result[1]


def _match_things(
    a: _Piece, b: _Piece, shared: _Window
) -> tuple[list[tuple[int, int]], NDArray[np.bool_], NDArray[np.bool_]]:
    """Pairs of labels that are the same thing, and which ids (K + 1) of each have a partner in the other."""
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
    return pairs, np.isin(np.arange(num_a), id_a), np.isin(np.arange(num_b), id_b)


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
