import pytest

from batch.journal import Journal


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
