"""Id-map and COCO run-length encoding, in numpy alone.

COCO's `counts` text: lengths of runs of zeros and ones in turn, zeros first, column by column; from the
fourth length on, each is written as its difference to the one two before; five bits a character, least
significant first, 0x20 marks that more follow, 48 is added. Letters: R runs of segments, S segments, L
lengths, C characters.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def encode(id_map: NDArray[np.integer], ids: Sequence[int]) -> list[str]:
    """COCO `counts` of each of `ids` in `id_map` (H, W), in their order; ids are > 0 and differ.

    One pass over the map whatever the number of segments. Absent ids give the empty mask.

    >>> encode(np.array([[0, 1], [1, 1]]), [1])
    ['13']
    """
    num_ids = len(ids)
    if not num_ids:
        return []
    height, width = id_map.shape
    starts, ends, owner = runs_by_segment(id_map, np.asarray(ids, np.int64))
    lengths, first = _run_lengths(starts, ends, owner, num_ids, height * width)
    characters, position = _characters(_differences(lengths, first))
    text = characters.tobytes().decode("ascii")
    cuts = position[first].tolist()
    return [text[begin:end] for begin, end in pairwise(cuts)]


def encode_runs(starts: NDArray[np.int64], ends: NDArray[np.int64], num_pixels: int) -> str:
    """COCO `counts` of one mask by its runs (R each) of pixels counted column by column, ascending and apart.

    >>> encode_runs(np.array([1]), np.array([4]), num_pixels=4)
    '13'
    """
    lengths, first = _run_lengths(starts, ends, np.zeros(len(starts), np.int64), 1, num_pixels)
    return _characters(_differences(lengths, first))[0].tobytes().decode("ascii")


def decode(counts: str | bytes, size: Sequence[int]) -> NDArray[np.bool_]:
    """Mask (H, W) of COCO `counts` and `size` (height, width).

    >>> decode("13", (2, 2)).tolist()
    [[False, True], [True, True]]
    """
    height, width = size
    lengths = _lengths(counts, height, width)
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def decode_runs(counts: str | bytes, size: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each run of a mask starts and ends (R each), in pixels counted column by column.

    >>> starts, ends = decode_runs("13", (2, 2))
    >>> starts.tolist(), ends.tolist()
    ([1], [4])
    """
    height, width = size
    bounds = np.cumsum(_lengths(counts, height, width))
    return bounds[: len(bounds) // 2 * 2 : 2], bounds[1::2]


def _lengths(counts: str | bytes, height: int, width: int) -> NDArray[np.int64]:
    """Lengths of zeros and ones in turn; raises ValueError unless they make a mask of that size."""
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    lengths = _decode_lengths(np.frombuffer(raw, np.uint8).astype(np.int64) - 48)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise ValueError(f"RLE counts cover {lengths.sum()} pixels, not {height} x {width}")
    return lengths


def runs_by_segment(
    id_map: NDArray[np.integer], ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Start, end and index into `ids` (R each) of the runs, column-major, by segment, then by start."""
    height = id_map.shape[0]
    top = int(max(id_map.max(initial=0), ids.max(initial=0)))
    dtype = np.uint8 if top < 256 else np.uint16 if top < 65536 else np.int32
    narrow: NDArray[np.integer] = id_map.astype(dtype)  # narrow types are compared and sorted faster
    starts = _run_starts(narrow)
    ends = np.append(starts[1:], narrow.size) if narrow.size else starts
    columns, rows = np.divmod(starts, height) if narrow.size else (starts, starts)
    index_of = np.full(top + 1, -1, np.int64)
    index_of[ids] = np.arange(len(ids))
    owner = index_of[narrow[rows, columns]]
    kept = np.flatnonzero(owner >= 0)
    order = kept[np.argsort(owner[kept].astype(np.uint16 if len(ids) < 65536 else np.int64), kind="stable")]
    return starts[order], ends[order], owner[order]


def _run_starts(id_map: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where each run of equal ids starts, in pixels counted column by column.

    Ids are compared as they lie in memory, row by row: few starts are sorted faster than many pixels are transposed.
    """
    height, width = id_map.shape
    if not id_map.size:
        return np.zeros(0, np.int64)
    above, column = np.divmod(np.flatnonzero(id_map[1:] != id_map[:-1]), width)
    tops = np.flatnonzero(id_map[0, 1:] != id_map[-1, :-1]) + 1  # columns that do not go on with the last one's run
    starts = np.concatenate([[0], tops * height, column * height + above + 1])
    starts.sort()
    return starts


def _run_lengths(
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    owner: NDArray[np.int64],
    num_ids: int,
    num_pixels: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths (L) of all segments one after the other, and where each segment's begin (S + 1).

    A segment of k runs has 2k lengths, and one more when zeros follow its last run (or when it is empty).
    """
    num_runs = np.bincount(owner, minlength=num_ids)
    run_cut = np.concatenate([[0], np.cumsum(num_runs)])
    last_end = np.zeros(num_ids, np.int64)
    filled = num_runs > 0
    last_end[filled] = ends[run_cut[1:][filled] - 1]
    has_tail = last_end < num_pixels
    first = np.concatenate([[0], np.cumsum(2 * num_runs + has_tail)])
    lengths = np.empty(first[-1], np.int64)

    previous_end = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    previous_end[run_cut[:-1][filled]] = 0
    zeros_at = first[owner] + 2 * (np.arange(len(owner)) - run_cut[owner])
    lengths[zeros_at] = starts - previous_end
    lengths[zeros_at + 1] = ends - starts
    lengths[first[1:][has_tail] - 1] = (num_pixels - last_end)[has_tail]
    return lengths, first


def _differences(lengths: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """From the fourth length of each segment on, the difference to the length two before."""
    result = lengths.copy()
    result[2:] -= lengths[:-2]
    whole = (first[:-1, None] + np.arange(3)).ravel()  # the first three stay as they are
    limit = np.repeat(first[1:], 3)
    whole = whole[whole < limit]
    result[whole] = lengths[whole]
    return result


def _characters(values: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All characters (C), and where each value's begin (L + 1)."""
    # A value needs the fewest 5-bit groups that hold it as a signed number.
    magnitude = np.where(values < 0, ~values, values)
    num_groups = np.ones(len(values), np.int64)
    limit = 16
    while (more := magnitude >= limit).any():
        num_groups += more
        limit *= 32
    position = np.concatenate([[0], np.cumsum(num_groups)])
    text = np.empty(position[-1], np.uint8)
    at = position[:-1]
    while len(at):  # one group of each value that has one left
        num_groups -= 1
        more = num_groups > 0
        text[at] = (values & 31 | more * 32) + 48
        left = np.flatnonzero(more)
        at, values, num_groups = at[left] + 1, values[left] >> 5, num_groups[left]
    return text, position


def _decode_lengths(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths (L) of the 6-bit groups (C) of one segment."""
    if not len(groups):
        return np.zeros(0, np.int64)
    if groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("not COCO RLE counts")
    is_last = groups & 32 == 0
    begin = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    value_of = np.cumsum(is_last) - is_last
    shift = 5 * (np.arange(len(groups)) - begin[value_of])
    if shift.max() > 50:
        raise ValueError("not COCO RLE counts")
    values = np.add.reduceat((groups & 31) << shift, begin)
    last = groups[is_last]
    bits_used = shift[is_last] + 5
    values = np.where(last & 16, values - (np.int64(1) << bits_used), values)
    # Undo the differences: but for the first, lengths of zeros and of ones are running sums.
    for begin_at in (1, 2):
        values[begin_at::2] = np.cumsum(values[begin_at::2])
    return values
