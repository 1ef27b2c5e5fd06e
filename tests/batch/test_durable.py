import errno

import pytest

from batch.durable import NotWrittenError, replacing, write_bytes


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("other")])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(error, tmp_path):
    path = tmp_path / "a.txt"
    write_bytes(path, b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error), match=str(error.args[-1])) as raised:
        fail()
    assert isinstance(raised.value, NotWrittenError) == isinstance(error, OSError)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told_with_its_place(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotWrittenError, match=r"exists.*file") as raised:
        write_bytes(tmp_path / "file" / "a.txt", b"")
    assert raised.value.errno == errno.EEXIST
