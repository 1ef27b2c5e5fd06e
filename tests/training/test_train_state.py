import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from training.train_state import PREVIOUS, STATE, has_state, load_state, save_state

ROOT = Path(__file__).resolve().parents[2]


def state_with(step):
    return {"step": step, "network": {"weight": torch.full((1000,), float(step))}}


@pytest.fixture
def two(tmp_path):
    """A folder with the states of steps 1 and 2."""
    for step in (1, 2):
        save_state(state_with(step), tmp_path)
    return tmp_path


def damage(path):
    """One bit of a tensor."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        offset = entry.header_offset + 2000
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_the_newest_state_is_loaded_and_the_one_before_is_kept(two):
    state, faults = load_state(two)
    assert state["step"] == 2
    assert torch.equal(state["network"]["weight"], torch.full((1000,), 2.0))
    assert faults == []
    assert (two / PREVIOUS).exists()


def test_a_folder_without_state_is_a_new_run(tmp_path):
    assert load_state(tmp_path) == (None, [])
    assert not has_state(tmp_path)


@pytest.mark.parametrize(
    "damaged",
    [damage, lambda path: path.write_bytes(path.read_bytes()[:-300]), lambda path: path.write_bytes(b"")],
    ids=["one bit", "cut off", "empty"],
)
def test_a_damaged_state_is_never_loaded(two, damaged):
    damaged(two / STATE)
    state, (fault,) = load_state(two)
    assert state["step"] == 1
    assert f"{two / STATE} is damaged" in fault
    damaged(two / PREVIOUS)
    with pytest.raises(ValueError, match="Name another --out"):
        load_state(two)


def test_a_kill_between_the_two_renames_loses_one_state_at_most(two):
    (two / STATE).replace(two / PREVIOUS)
    assert load_state(two)[0]["step"] == 2


def test_what_a_kill_left_half_written_is_not_looked_at(two):
    (two / f"{STATE}.part").write_bytes(b"torn")
    assert load_state(two)[0]["step"] == 2
    save_state(state_with(3), two)
    assert load_state(two)[0]["step"] == 3
    assert not (two / f"{STATE}.part").exists()


def test_an_error_of_a_signal_ends_neither_the_process_nor_the_state(tmp_path):
    """As torch's data loader raises one wherever the process is, when a worker is killed."""
    code = f"""
import random, signal, time
from pathlib import Path
import torch
from training.train_state import load_state, save_state

def fail(*_):
    if is_saving:
        raise RuntimeError("a worker is killed")

folder = Path({str(tmp_path)!r})
state = {{"step": 1}} | {{str(number): torch.zeros(200, 200) for number in range(40)}}
save_state(state, folder)
begin = time.monotonic()
save_state(state, folder)
seconds = time.monotonic() - begin
signal.signal(signal.SIGALRM, fail)
interrupted = 0
for _ in range(100):
    try:
        is_saving = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.05, 1) * seconds)
        save_state(state, folder)
        is_saving = False
    except (OSError, RuntimeError):
        interrupted += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupted > 10, interrupted
assert load_state(folder)[0]["step"] == 1
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
