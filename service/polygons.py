"""Outlines of masks: rings along the edges of pixels, so that filling them (`service.filling`) gives exactly the mask.

Pixel (x, y) covers the square from (x, y) to (x + 1, y + 1); an image spans (0, 0) to (width, height). A segment is the
`coordinates` of a GeoJSON MultiPolygon: one polygon for each part whose pixels share edges, its outer ring first, then
its holes. A ring ends with its first point, has corners only, and visits none twice; parts and holes may touch in
corners. By the shoelace formula on (x, y) an outer ring has a positive area (clockwise on a screen, where y points
down), a hole a negative one.

Letters: R runs of pixels down the columns; C corners, each the end of one horizontal and of one vertical edge (where
two pixels touch in a corner alone there are two). Outlines come from runs, so that they cost what they are long.
"""

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service import rle
from service.errors import InvalidParameterError
from service.instances import Instances, Result

MAX_CORNERS = 2_000_000  # of one answer, some 25 MB of JSON; also the most runs
_RUNS_AT_ONCE = 2**18
Runs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]  # start, end, segment; by segment, then by start
Ring = NDArray[np.int32]
Polygon = list[Ring]


def trace(result: Result) -> Iterator[list[Polygon]]:
    """The polygons of each segment, in their order; rings are (n, 2), of (x, y).

    Raises:
        InvalidParameterError: there are more than `MAX_CORNERS` corners.
    """
    size = result.image_size if isinstance(result, Instances) else result.id_map.shape
    total = 0
    for runs, count in _groups(result):
        corners = _find_corners(runs, size)
        total += len(corners.x)
        _check(total, "corners")
        yield from _polygons(corners, count)


@dataclass(frozen=True, kw_only=True)
class _Corners:
    """Corners (C), sorted by segment, x and y, so that 2 k and 2 k + 1 are the ends of a vertical edge.

    `partner`: the other end of its horizontal edge. `is_start`: whether the ring goes along that edge from here.
    `is_twin`: whether it lies where the corner before it lies.
    """

    segment: NDArray[np.int64]
    x: NDArray[np.int32]
    y: NDArray[np.int32]
    partner: NDArray[np.int64]
    is_start: NDArray[np.bool_]
    is_twin: NDArray[np.bool_]


def _check(count: int, what: str) -> None:
    if count > MAX_CORNERS:
        raise InvalidParameterError(
            f"the outlines have {count:,} {what} or more, an answer may have {MAX_CORNERS:,}; ask for format=rle"
        )


def _groups(result: Result) -> Iterator[tuple[Runs, int]]:
    """Runs of some segments at a time, numbered from 0, and how many segments these are."""
    if isinstance(result, Instances):
        for counts in result.counts:
            starts, ends = rle.decode_runs(counts, result.image_size)
            yield (starts, ends, np.zeros(len(starts), np.int64)), 1
        return
    num_segments = len(result.segments)
    starts, ends, segment = rle.runs_by_segment(result.id_map, np.arange(1, num_segments + 1))
    _check(len(starts), "runs")
    cuts = np.searchsorted(segment, np.arange(num_segments + 1))
    begin = 0
    while begin < num_segments:
        end = max(begin + 1, int(np.searchsorted(cuts, cuts[begin] + _RUNS_AT_ONCE, "right")) - 1)
        part = slice(cuts[begin], cuts[end])
        yield (starts[part], ends[part], segment[part] - begin), end - begin
        begin = end


def _find_corners(runs: Runs, size: tuple[int, int]) -> _Corners:
    """Corners are where the horizontal edges above and below runs, one pixel long, do not go on in the next column."""
    height, width = size
    x, top, bottom, segment = _split_at_columns(*runs, height)
    codes = []
    for row, of_top in ((top, 1), (bottom, 0)):
        for of_left in (1, 0):
            place = (segment * (width + 1) + x + 1 - of_left) * (height + 1) + row
            codes.append(4 * place + 2 * of_top + of_left)
    code = np.sort(np.concatenate(codes))
    goes_on = code[1:] >> 1 == code[:-1] >> 1
    ends = np.ones(len(code), np.bool_)
    ends[1:] &= ~goes_on
    ends[:-1] &= ~goes_on
    code = code[ends]
    is_left, is_top, place = code & 1, code >> 1 & 1, code >> 2
    column, y = np.divmod(place, height + 1)
    segment, x = np.divmod(column, width + 1)
    # Where there are twins, one edge ends at their place and the next begins.
    order = np.argsort(((segment * (height + 1) + y) * (width + 1) + x) * 2 + is_left)
    partner = np.empty(len(code), np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return _Corners(
        segment=segment,
        x=x.astype(np.int32),
        y=y.astype(np.int32),
        partner=partner,
        is_start=np.equal(is_left, is_top),
        is_twin=np.diff(place, prepend=-1) == 0,
    )


def _split_at_columns(
    starts: NDArray[np.int64], ends: NDArray[np.int64], segment: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], ...]:
    """Column, top, bottom and segment of the runs, each within one column."""
    first, last = starts // height, (ends - 1) // height
    num_columns = last - first + 1
    run = np.repeat(np.arange(len(starts)), num_columns)
    before = np.cumsum(num_columns) - num_columns
    x = first[run] + np.arange(len(run)) - before[run]
    top = np.where(x == first[run], starts[run] - x * height, 0)
    bottom = np.where(x == last[run], ends[run] - x * height, height)
    return x, top, bottom, segment[run]


def _polygons(corners: _Corners, num_segments: int) -> Iterator[list[Polygon]]:
    """Of each segment."""
    rings = list(_walk(corners))
    flat = np.fromiter((corner for ring in rings for corner in ring), np.int64)
    points = np.stack([corners.x[flat], corners.y[flat]], axis=1)
    cuts = np.cumsum([0, *map(len, rings)])
    x, y = points.astype(np.int64).T
    cross = np.append(x[:-1] * y[1:] - x[1:] * y[:-1], 0)[: len(x)]
    cross[cuts[1:] - 1] = 0  # from one ring's last point to the next ring's first
    is_outer: list[bool] = (np.add.reduceat(cross, cuts[:-1]) > 0).tolist() if rings else []
    segment = corners.segment[flat[cuts[:-1]]]
    first = np.searchsorted(segment, np.arange(num_segments + 1)).tolist()
    bounds = cuts.tolist()
    for number in range(num_segments):
        span = range(first[number], first[number + 1])
        own = [points[bounds[ring] : bounds[ring + 1]] for ring in span]
        yield _assemble(own, [is_outer[ring] for ring in span])


def _walk(corners: _Corners) -> Iterator[list[int]]:
    """The rings, each a list of corners that ends with the first; ordered by segment."""
    partner = corners.partner.tolist()
    twins = set(np.flatnonzero(corners.is_twin).tolist())
    seen = bytearray(len(partner))
    for start in np.flatnonzero(corners.is_start).tolist():
        if seen[start]:
            continue
        ring: list[int] = []
        corner = start
        while not seen[corner]:
            seen[corner] = 1
            end = partner[corner]
            ring += (corner, end)
            corner = end ^ 1
        simple = [ring] if twins.isdisjoint(ring) else _split_at_twins(ring, twins)
        for one in simple:
            one.append(one[0])
            yield one


def _split_at_twins(ring: list[int], twins: set[int]) -> Iterator[list[int]]:
    """Rings without the places where a ring meets itself: each way from such a place back to it is one of its own."""
    position: dict[int, int] = {}  # on the path, of a place: the first of its twins
    path: list[int] = []
    for corner in ring:
        place = corner - (corner in twins)
        if place in position:
            begin = position[place]
            loop = path[begin:]
            for one in loop[1:]:
                del position[one]
            del path[begin + 1 :]
            yield loop
        else:
            position[place] = len(path)
            path.append(place)
    yield path


def _assemble(rings: list[Ring], is_outer: list[bool]) -> list[Polygon]:
    """Each outer ring with its holes."""
    outer = [number for number, yes in enumerate(is_outer) if yes]
    polygon_of = {number: [rings[number]] for number in outer}
    if len(outer) < len(rings):
        owner = _find_owners(rings, is_outer) if len(outer) > 1 else dict.fromkeys(range(len(rings)), outer[0])
        for number, ring in enumerate(rings):
            if not is_outer[number]:
                polygon_of[owner[number]].append(ring)
    return list(polygon_of.values())


def _find_owners(rings: list[Ring], is_outer: list[bool]) -> dict[int, int]:
    """Number of the outer ring around each hole, and of each outer ring itself.

    The ring left of the pixel above a hole's first corner is of the same part. A sweep down the rows finds it, and a
    hole found this way begins above, so that its own owner is known by then.
    """
    removal, addition, question = 0, 1, 2
    events: list[tuple[int, int, int, int]] = []  # row, kind, x, ring
    for number, ring in enumerate(rings):
        points = ring.tolist()
        for (x, y), (next_x, next_y) in pairwise(points):
            if x == next_x:
                events += ((min(y, next_y), addition, x, number), (max(y, next_y), removal, x, number))
        if not is_outer[number]:
            y, x = min((y, x) for x, y in points)
            events.append((y - 1, question, x, number))
    owner = {number: number for number, yes in enumerate(is_outer) if yes}
    edges: list[tuple[int, int]] = []  # x and ring of those that cross the row, from left to right
    for _, kind, x, number in sorted(events):
        if kind == addition:
            insort(edges, (x, number))
        elif kind == removal:
            del edges[bisect_right(edges, (x, number)) - 1]
        else:
            _, found = edges[bisect_right(edges, (x, len(rings))) - 1]
            owner[number] = owner[found]
    return owner
