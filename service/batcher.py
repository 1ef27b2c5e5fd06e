"""The dynamic batcher, inside the engine process: what has come while the engine ran becomes its next batch.

One thread puts items, one fills the next batch, one or more take it: the canvases of the next batch are copied together
while the engine runs the last, so that the engine finds its inputs ready. It waits for nothing, unless a delay is set.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes: canvases of one batch have the same


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One canvas that waits: `arrays` have a first axis of length 1; times are of `time.monotonic`.

    `owner` is whoever put it into its slot; nothing here looks at it.
    """

    owner: Any = None
    slot: int
    arrays: Mapping[str, NDArray[Any]]
    deadline: float
    arrived: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> Key:
        """What it must have in common with others to be run with them."""
        return tuple((name, array.shape) for name, array in self.arrays.items())

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.arrays["image"].shape[1:3]
        return height, width


@dataclass(frozen=True, eq=False)
class Batch:
    """Items, and their arrays with the batch as first axis."""

    items: list[Item]
    arrays: dict[str, NDArray[Any]]


class Batcher:
    """Items of one canvas size at a time, the one that has waited longest first.

    Args:
        limit: the most canvases of (height, width) in one batch.
        drop: called with items that shall not be run, as their deadline has passed or nobody waits for them.
        is_abandoned: whether nobody waits for an item.
        delay: seconds that an item may wait for others while its batch is not full.
        runs: batches that may run at once. While one does, the next is taken only once it is full: it could not begin
            sooner, and others may still join it.
        crowd: items that must wait behind a next batch of so many pixels, too, before it is taken while one runs.
    """

    def __init__(
        self,
        *,
        limit: Callable[[int, int], int],
        drop: Callable[[Sequence[Item]], None],
        is_abandoned: Callable[[Item], bool],
        delay: float = 0.0,
        runs: int = 1,
        crowd: Callable[[int], float] = lambda pixels: 0,
    ) -> None:
        self._limit = limit
        self._drop = drop
        self._is_abandoned = is_abandoned
        self._delay = delay
        self._crowd = crowd
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._next = _Staging()
        self._spare = [_Staging() for _ in range(runs)]
        self._running: dict[Batch, _Staging] = {}
        self._closed = False

    @property
    def num_waiting(self) -> int:
        """Items that have not been taken."""
        return len(self._waiting) + len(self._next.items)

    def put(self, item: Item) -> None:
        """Let an item wait."""
        with self._changed:
            self._waiting.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """End `fill` and `take`, in all threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fill(self) -> None:
        """Copy items into the next batch as they come, until closed; for a thread of its own."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._find() is not None)
                if self._closed:
                    return
                item = self._find()
                if item is None:
                    continue
                self._waiting.remove(item)
                if self._is_dead(item):
                    self._drop([item])
                    continue
                self._next.add(item, self._limit(*item.canvas))
                self._changed.notify_all()

    def take(self) -> Batch | None:
        """The next batch, once there is one, to be handed to `done` when it has run; None when closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or self._next.items)
                if self._closed:
                    return None
                if dead := [item for item in self._next.items if self._is_dead(item)]:
                    self._drop(dead)
                    self._next.remove(dead)
                    self._changed.notify_all()  # there is room again
                    continue
                wait = self._next.items[0].arrived + self._delay - time.monotonic()
                if self._may_run(is_due=wait <= 0):
                    batch = self._next.batch()
                    self._running[batch] = self._next
                    self._next = self._spare.pop()
                    self._changed.notify_all()
                    return batch
                self._changed.wait(wait if wait > 0 else None)  # or until the batch that runs is done

    def done(self, batch: Batch) -> None:
        """A batch has run: its arrays are used again."""
        with self._changed:
            staging = self._running.pop(batch)
            staging.items = []
            self._spare.append(staging)
            self._changed.notify_all()

    def _may_run(self, *, is_due: bool) -> bool:
        """Whether the next batch may be taken; `is_due`: its first item has waited for others long enough."""
        if not self._running:
            return is_due or self._next.is_full
        return self._next.is_full and len(self._waiting) >= self._crowd(self._next.num_pixels)

    def _find(self) -> Item | None:
        """The longest waiting item that the next batch can take: any, while it is empty."""
        if not self._next.items:
            return self._waiting[0] if self._waiting else None
        if self._next.is_full:
            return None
        return next((item for item in self._waiting if item.key == self._next.key), None)

    def _is_dead(self, item: Item) -> bool:
        return self._is_abandoned(item) or time.monotonic() > item.deadline


class _Staging:
    """Arrays of one batch, used again while canvases have the same shape."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.items: list[Item] = []
        self._limit = 0
        self._arrays: dict[str, NDArray[Any]] = {}

    @property
    def is_full(self) -> bool:
        """Whether it holds all that one batch may."""
        return len(self.items) >= self._limit

    @property
    def num_pixels(self) -> int:
        """Of its canvases together."""
        return sum(math.prod(item.canvas) for item in self.items)

    def add(self, item: Item, limit: int) -> None:
        """Copy an item's arrays behind the others; the first decides on the shape."""
        if not self.items and (item.key, limit) != (self.key, self._limit):
            self.key, self._limit = item.key, limit
            self._arrays = {name: np.empty((limit, *a.shape[1:]), a.dtype) for name, a in item.arrays.items()}
        position = len(self.items)
        for name, array in item.arrays.items():
            self._arrays[name][position] = array[0]
        self.items.append(item)

    def remove(self, dead: Sequence[Item]) -> None:
        """Close the gaps that items leave."""
        kept = [position for position, item in enumerate(self.items) if item not in dead]
        for array in self._arrays.values():
            array[: len(kept)] = array[kept]
        self.items = [self.items[position] for position in kept]

    def batch(self) -> Batch:
        """What it holds."""
        return Batch(self.items, {name: array[: len(self.items)] for name, array in self._arrays.items()})
