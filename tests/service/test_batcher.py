import math
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from service.batcher import Batch, Batcher, Item


class Rig:
    """A batcher with its filling thread."""

    def __init__(
        self, *, limit=lambda height, width: 4, delay: float = 0.0, runs: int = 1, crowd=lambda pixels: 0
    ) -> None:
        self.dropped: list[int] = []
        self.abandoned: set[int] = set()
        self.batcher = Batcher(
            limit=limit,
            drop=lambda items: self.dropped.extend(item.slot for item in items),
            is_abandoned=lambda item: item.slot in self.abandoned,
            delay=delay,
            runs=runs,
            crowd=crowd,
        )
        self.filler = threading.Thread(target=self.batcher.fill)
        self.filler.start()

    def put(self, *slots: int, side: int = 8, seconds: float = 60.0) -> None:
        for slot in slots:
            arrays = {"image": np.full((1, side, side, 3), slot, np.uint8), "valid_size": np.full((1, 2), slot)}
            self.batcher.put(Item(slot=slot, arrays=arrays, deadline=time.monotonic() + seconds))

    def settle(self) -> None:
        """Wait until the filling thread has nothing to do."""
        last = None
        while (now := (len(self.batcher._waiting), len(self.batcher._next.items), len(self.dropped))) != last:
            last = now
            time.sleep(0.05)

    def take_in_a_thread(self) -> tuple[threading.Thread, list[Batch | None]]:
        """A thread that waits for a batch, and where it puts it."""
        taken: list[Batch | None] = []
        taker = threading.Thread(target=lambda: taken.append(self.batcher.take()))
        taker.start()
        return taker, taken

    def begin(self) -> Batch:
        self.settle()
        batch = self.batcher.take()
        assert batch is not None
        check(batch)
        return batch

    def take(self) -> list[int]:
        """The slots of a batch that is done at once."""
        batch = self.begin()
        self.batcher.done(batch)
        return slots(batch)


@pytest.fixture
def make_rig() -> Iterator:
    rigs = []

    def make(**options) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.batcher.close()
        rig.filler.join(5)


def slots(batch: Batch) -> list[int]:
    return [item.slot for item in batch.items]


def check(batch: Batch) -> None:
    """Each row is its item's."""
    for position, item in enumerate(batch.items):
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(array[position], item.arrays[name][0])
    assert all(len(array) == len(batch.items) for array in batch.arrays.values())


def test_what_waits_becomes_one_batch_up_to_the_limit(make_rig):
    rig = make_rig()
    rig.put(1, 2, 3, 4, 5, 6)
    rig.settle()
    assert rig.take() == [1, 2, 3, 4]
    assert rig.take() == [5, 6]


def test_one_item_does_not_wait_for_others(make_rig):
    rig = make_rig()
    rig.put(7)
    assert rig.take() == [7]


def test_batches_keep_to_one_size_and_the_oldest_comes_first(make_rig):
    rig = make_rig()
    rig.put(1, side=8)
    rig.put(2, 3, side=16)
    rig.put(4, 5, side=8)
    rig.put(6, side=16)
    rig.settle()
    assert rig.take() == [1, 4, 5]
    assert rig.take() == [2, 3, 6]


def test_items_of_a_rare_size_are_not_passed_over(make_rig):
    rig = make_rig(limit=lambda height, width: 2)
    rig.put(1, side=8)
    rig.put(2, side=16)
    for slot in range(3, 9):
        rig.put(slot, side=8)
    rig.settle()
    taken = [rig.take() for _ in range(3)]
    assert [2] in taken[:2]


def test_limit_is_of_the_canvas_size(make_rig):
    rig = make_rig(limit=lambda height, width: max(1, 128 // (height * width)))
    rig.put(1, 2, 3, side=8)
    rig.put(4, 5, side=16)
    rig.settle()
    assert [rig.take() for _ in range(4)] == [[1, 2], [3], [4], [5]]


def test_delay_lets_a_batch_become_full(make_rig):
    rig = make_rig(delay=30.0)
    taken = []
    taker = threading.Thread(target=lambda: taken.append(rig.take()))
    taker.start()
    for slot in (1, 2, 3):
        rig.put(slot)
        rig.settle()
    assert not taken
    rig.put(4)
    taker.join(10)
    assert taken == [[1, 2, 3, 4]]


def test_delay_ends(make_rig):
    rig = make_rig(delay=0.05)
    rig.put(1)
    assert rig.take() == [1]


def test_expired_and_abandoned_items_are_dropped_not_run(make_rig):
    rig = make_rig()
    rig.put(1, 2, 3)
    rig.put(4, seconds=0.0)
    rig.settle()
    rig.abandoned = {1, 3}
    assert rig.take() == [2]
    assert sorted(rig.dropped) == [1, 3, 4]


def test_a_batch_of_which_nothing_is_left_is_not_run(make_rig):
    rig = make_rig()
    rig.put(1, 2)
    rig.settle()
    rig.abandoned = {1, 2}
    rig.put(3)
    assert rig.take() == [3]
    assert sorted(rig.dropped) == [1, 2]


def test_what_waits_behind_a_batch_of_dead_items_is_not_forgotten(make_rig):
    rig = make_rig(limit=lambda height, width: 1)
    rig.put(1, 2)
    rig.settle()
    rig.abandoned = {1}
    taken = []
    taker = threading.Thread(target=lambda: taken.append(rig.take()))
    taker.start()  # nothing is put any more that could wake anybody
    taker.join(10)
    assert taken == [[2]]


def test_rows_of_a_batch_stay_until_it_is_done(make_rig):
    rig = make_rig(runs=2)
    rig.put(1, 2, 3, 4)
    first = rig.begin()
    rig.put(5, 6, 7, 8)
    second = rig.begin()
    rig.put(9, 10)
    rig.settle()
    check(first)
    check(second)
    rig.batcher.done(first)
    rig.batcher.done(second)
    assert rig.take() == [9, 10]


def test_beside_a_batch_that_runs_only_a_full_one_is_taken(make_rig):
    rig = make_rig(runs=2)
    rig.put(1)
    first = rig.begin()
    taker, taken = rig.take_in_a_thread()
    rig.put(2, 3, 4)
    rig.settle()
    assert not taken
    rig.put(5)
    taker.join(10)
    assert [slots(batch) for batch in taken] == [[2, 3, 4, 5]]
    rig.batcher.done(first)


def test_what_waited_for_a_full_batch_goes_on_when_the_other_is_done(make_rig):
    rig = make_rig(runs=2)
    rig.put(1)
    first = rig.begin()
    taker, taken = rig.take_in_a_thread()
    rig.put(2)
    rig.settle()
    rig.batcher.done(first)
    taker.join(10)
    assert [slots(batch) for batch in taken] == [[2]]


def test_a_second_batch_runs_only_in_a_crowd_where_one_is_asked_for(make_rig):
    rig = make_rig(limit=lambda height, width: 1, runs=2, crowd=lambda pixels: 2)
    rig.put(1)
    first = rig.begin()
    taker, taken = rig.take_in_a_thread()
    rig.put(2, 3)
    rig.settle()
    assert not taken
    rig.put(4)
    taker.join(10)
    assert [slots(batch) for batch in taken] == [[2]]
    rig.batcher.done(first)
    rig.batcher.done(taken[0])
    assert rig.take() == [3]
    assert rig.take() == [4]


def test_a_batch_too_large_to_run_beside_another_is_not_taken_while_one_runs(make_rig):
    rig = make_rig(limit=lambda height, width: 1, runs=2, crowd=lambda pixels: 0 if pixels <= 8 * 8 else math.inf)
    rig.put(1)
    first = rig.begin()
    taker, taken = rig.take_in_a_thread()
    rig.put(2, 3, side=16)
    rig.settle()
    assert not taken
    rig.batcher.done(first)
    taker.join(10)
    assert [slots(batch) for batch in taken] == [[2]]


def test_take_ends_when_closed(make_rig):
    rig = make_rig()
    taker, taken = rig.take_in_a_thread()
    rig.batcher.close()
    taker.join(10)
    assert taken == [None]


def test_every_item_comes_out_once_whatever_the_order(make_rig):
    rig = make_rig(limit=lambda height, width: 3)
    random = np.random.default_rng(0)
    total = 200

    def put() -> None:
        for slot in range(total):
            rig.put(slot, side=int(random.choice([4, 8, 12])))
            if slot % 7 == 0:
                time.sleep(0.001)

    putter = threading.Thread(target=put)
    putter.start()
    seen: list[int] = []
    while len(seen) < total:
        taken = rig.take()
        assert 1 <= len(taken) <= 3
        seen += taken
    putter.join()
    assert sorted(seen) == list(range(total))
