"""A folder in which another process trains."""

import signal
import subprocess
import sys

import pytest

from batch.lock import hold
from training.engine import Devices
from training.run import train_recipe

HOLD = """
import sys
from pathlib import Path
from batch.lock import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_training_in_a_folder_is_refused_while_the_first_lives(discs, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    command = [sys.executable, "-c", HOLD, out / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process trains in .*run: wait for it, or name another folder"):
            train_recipe("small_panoptic", discs, out, changes={}, devices=Devices(), skip_check=True)
        process.send_signal(signal.SIGKILL)
    lock = hold(out / ".lock")  # nothing of a killed process is left
    assert lock is not None
    lock.close()
