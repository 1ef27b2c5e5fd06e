import threading

import pytest

from batch.journal import Journal
from batch.local_runner import for_each


def test_records_come_in_the_order_of_the_job(tmp_path):
    journal = Journal(tmp_path / "j", 4)
    for index in (2, 0, 3):
        journal.append(index, {"value": index * 10})
    assert [(index, record["value"]) for index, record in journal.records()] == [(0, 0), (2, 20), (3, 30)]
    assert (journal.num_done, journal.is_done(1), journal.is_done(2)) == (3, False, True)
    journal.close()


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_line_cut_short_anywhere_is_done_again(tmp_path, cut):
    path = tmp_path / "j"
    journal = Journal(path, 3)
    journal.append(1, {"value": "one"})
    whole = path.stat().st_size
    journal.append(0, {"value": "nil"})
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(max(whole, size - cut))
    again = Journal(path, 3)
    assert (again.num_done, again.is_done(1), path.stat().st_size) == (1, True, whole)
    again.append(2, {"value": "two"})
    assert [record["value"] for _, record in again.records()] == ["one", "two"]
    again.close()


def test_zeros_that_a_crash_left_are_cut_off(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, 2)
    journal.append(0, {})
    journal.close()
    with path.open("ab") as file:
        file.write(bytes(50) + b"\n")
    again = Journal(path, 2)
    assert again.num_done == 1
    again.close()


def test_one_process_at_a_time(tmp_path):
    journal = Journal(tmp_path / "j", 1)
    with pytest.raises(ValueError, match="another process"):
        Journal(tmp_path / "j", 1)
    journal.close()
    Journal(tmp_path / "j", 1).close()


def test_no_more_items_are_taken_than_threads_work_at():
    lock, taken, finished, most = threading.Lock(), 0, 0, 0

    def items():
        nonlocal taken, most
        for index in range(500):
            with lock:
                taken += 1
                most = max(most, taken - finished)
            yield index, None

    def work(index, item):
        nonlocal finished
        with lock:
            finished += 1

    for_each(work, items(), 4)
    assert finished == 500
    assert most <= 5


def test_the_first_error_ends_the_run():
    done = []

    def work(index, item):
        if index == 3:
            raise OSError("disk full")
        done.append(index)

    with pytest.raises(OSError, match="disk full"):
        for_each(work, ((index, None) for index in range(1000)), 2)
    assert len(done) < 20
