import threading

import pytest

from batch.workers import for_each


def test_no_more_items_are_taken_than_threads_work_at():
    lock, taken, finished, most = threading.Lock(), 0, 0, 0

    def items():
        nonlocal taken, most
        for index in range(500):
            with lock:
                taken += 1
                most = max(most, taken - finished)
            yield index

    def work(index):
        nonlocal finished
        with lock:
            finished += 1

    for_each(work, items(), 4)
    assert finished == 500
    assert most <= 5


def test_the_first_error_ends_the_run():
    done = []

    def work(index):
        if index == 3:
            raise OSError("disk full")
        done.append(index)

    with pytest.raises(OSError, match="disk full"):
        for_each(work, range(1000), 2)
    assert len(done) < 20


def test_work_that_runs_is_told_to_stop():
    stopped, begun = threading.Event(), threading.Event()

    def work(index):
        if index == 0:
            begun.set()
            assert stopped.wait(10)
        else:
            assert begun.wait(10)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        for_each(work, range(10), 2, stop=stopped.set)


def test_the_last_work_is_told_to_stop_when_any_of_it_fails():
    stopped = threading.Event()

    def work(index):
        if index == 5:
            raise OSError("disk full")
        assert stopped.wait(10)

    with pytest.raises(OSError, match="disk full"):
        for_each(work, range(10), 20, stop=stopped.set)
