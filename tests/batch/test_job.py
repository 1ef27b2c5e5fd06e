"""Jobs from the command line: bad images, kills, what is there already."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from knet.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arguments(batch_repository, image_folder):
    """Of a job with the slow model."""
    return ["batch", str(image_folder), "--model", "slow", "--repository", str(batch_repository), "--out"]


@pytest.fixture
def invoke():
    def call(*arguments):
        environment = {"KNET_ENGINE_THREADS": "1", "KNET_MAX_BATCH": "1", "COLUMNS": "200"}
        return CliRunner().invoke(app, [str(one) for one in arguments], env=environment)

    return call


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def children_of(pid: int) -> list[int]:
    """Processes that any of its threads has begun."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for child in " ".join(lists).split()]


@pytest.fixture
def begin(arguments):
    """Starts the job in a process of its own and waits until a few of its images are done."""
    processes = []

    def start(out) -> subprocess.Popen:
        environment = {**os.environ, "KNET_ENGINE_THREADS": "1", "KNET_MAX_BATCH": "1"}
        process = subprocess.Popen([sys.executable, "-m", "knet", *arguments, out], cwd=ROOT, env=environment)
        processes.append(process)
        while count_lines(out / ".job" / "journal.jsonl") < 4:
            assert process.poll() is None
            time.sleep(0.005)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_job_goes_on_and_equals_one_that_was_not(number, arguments, begin, invoke, read_tree, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert invoke(*arguments, whole).exit_code == 0

    process = begin(killed)
    children = children_of(process.pid)
    process.send_signal(number)
    assert process.wait() != 0
    journal = killed / ".job" / "journal.jsonl"
    done = count_lines(journal)
    assert 4 <= done < 14
    stems = [Path(json.loads(line)["name"]).with_suffix(".png") for line in (killed / ".job" / "items.jsonl").open()]
    indices = [json.loads(line)["index"] for line in journal.read_bytes().splitlines()[:done]]
    pictures = [killed / "panoptic" / stems[index] for index in indices]
    written = {path: path.stat().st_mtime_ns for path in pictures if path.exists()}
    assert len(written) >= 2  # the others are the bad images
    journal.write_bytes(journal.read_bytes() + b'{"index": 1')  # as a kill in the middle of a line would leave it
    wait_gone(children)

    result = invoke(*arguments, killed)
    assert result.exit_code == 0, result.output
    assert f"going on: {done} of 14 images are done" in result.output
    assert read_tree(killed) == read_tree(whole)
    assert len(list(whole.rglob("*.png"))) == 12
    assert {path: path.stat().st_mtime_ns for path in written} == written  # none was made again


def test_an_engine_that_ends_is_started_again(arguments, begin, invoke, read_tree, tmp_path):
    assert invoke(*arguments, tmp_path / "whole").exit_code == 0
    process = begin(tmp_path / "out")
    children = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(process.pid)}
    engines = [pid for pid, command in children.items() if b"spawn_main" in command]
    assert len(engines) == 1
    os.kill(engines[0], signal.SIGKILL)
    assert process.wait() == 0
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "whole")


def wait_gone(pids: list[int]) -> None:
    """The engine ends by itself when nobody is there to ask it."""
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]:
            time.sleep(0.05)


def test_bad_images_are_told_and_stop_nothing(arguments, invoke, image_folder, tmp_path):
    (image_folder / "part1" / "gone.png").symlink_to(image_folder / "nowhere.png")
    out = tmp_path / "out"
    result = invoke(*arguments, out, "--model", "panoptic", "--format", "coco-panoptic")
    assert result.exit_code == 0, result.output
    assert "12 images, 3 failed" in result.output
    failed = {one["file_name"]: one for one in map(json.loads, (out / "failed.jsonl").read_text().splitlines())}
    assert set(failed) == {"part0/short.png", "part1/gone.png", "words.jpg"}
    assert failed["part0/short.png"]["type"] == "undecodable-image"
    assert failed["part1/gone.png"]["type"] == "unreadable"
    assert failed["words.jpg"]["type"] == "unsupported-image"
    assert all(one["reason"] for one in failed.values())
    content = json.loads((out / "panoptic.json").read_text())
    assert len(content["images"]) == len(content["annotations"]) == 12
    assert not (out / ".job").exists()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = invoke(*arguments, out, "--model", "panoptic", "--format", "coco-panoptic")
    assert (again.exit_code, "nothing to do" in again.output) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    for option, value, words in (
        ("--format", "overlay", "begun with format 'coco-panoptic', not 'overlay'"),
        ("--views", "2", "begun with views 1, not 2"),
    ):
        other = invoke(*arguments, out, "--model", "panoptic", option, value)
        assert other.exit_code == 1
        assert words in other.output


def test_a_folder_of_something_else_is_left_alone(arguments, invoke, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = invoke(*arguments, tmp_path)
    assert result.exit_code == 1
    assert "is not empty" in result.output


def test_an_unknown_model_is_told_with_those_there(arguments, invoke, tmp_path):
    result = invoke(*arguments, tmp_path / "out", "--model", "other")
    assert result.exit_code == 1
    assert "there: instance, panoptic, semantic, slow" in result.output
    assert not (tmp_path / "out").exists()


def test_help_teaches(invoke):
    result = invoke("batch", "--help")
    assert result.exit_code == 0
    for word in ("failed.jsonl", "coco-panoptic", "WebDataset", "Examples", "--ray-address"):
        assert word in result.output
