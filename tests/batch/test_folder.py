"""The folder of a job: begun, gone on with, finished; one process at a time."""

import subprocess
import sys

import pytest

from batch.folder import open_folder
from batch.items import Item
from batch.job import find_model
from batch.sinks import SINKS

ITEMS = [Item(id=number, name=f"{number}.png", url=f"/{number}.png") for number in (1, 2)]


def begin(out, items=(), **request):
    return open_folder(out, request, items, SINKS["overlay"])


BEGIN = """
import sys
from pathlib import Path
from batch.folder import open_folder
from batch.sinks import SINKS
open_folder(Path(sys.argv[1]), {}, [], SINKS["overlay"])
"""


def what_another_process_is_told(out) -> str:
    return subprocess.run([sys.executable, "-c", BEGIN, out], capture_output=True, text=True, check=False).stderr


def test_one_process_at_a_time_from_the_list_on(tmp_path):
    told = f"ValueError: another process works at the job in {tmp_path / 'out'}"

    def listing():
        for item in ITEMS:
            assert told in what_another_process_is_told(tmp_path / "out")
            yield item

    folder = begin(tmp_path / "out", listing())
    assert [item.id for _, item in folder.pending()] == [1, 2]
    assert told in what_another_process_is_told(tmp_path / "out")
    folder.close()
    assert what_another_process_is_told(tmp_path / "out") == ""
    begin(tmp_path / "out").close()


def test_a_list_that_fails_is_made_again(tmp_path):
    def broken():
        yield ITEMS[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        begin(tmp_path / "out", broken())
    folder = begin(tmp_path / "out", ITEMS)
    assert folder.num_items == 2
    folder.close()


@pytest.mark.parametrize("left", ["journal.jsonl", "request.json"])
def test_a_kill_while_the_work_is_removed_leaves_a_finished_job(left, batch_repository, tmp_path):
    out, metadata = tmp_path / "out", find_model(batch_repository, "panoptic", None).metadata
    folder = begin(out, ITEMS, input="a")
    for index in range(2):
        folder.journal.append(index, {"error": {"type": "unreadable", "reason": "gone"}})
    kept = (out / ".job" / left).read_bytes()
    folder.finish(metadata)
    (out / ".job").mkdir()
    (out / ".job" / left).write_bytes(kept)

    assert begin(out, ITEMS, input="a") is None
    assert not (out / ".job").exists()
    with pytest.raises(ValueError, match="begun with input 'a', not 'b'"):
        begin(out, ITEMS, input="b")
