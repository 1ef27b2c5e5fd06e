"""A hundred times the images take no more memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def peak_bytes(arguments, environment) -> int:
    """Most memory of the job's own process."""
    process = subprocess.Popen([sys.executable, "-m", "knet", *arguments], cwd=ROOT, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
def test_memory_stays_flat(batch_repository, make_scene, encode, tmp_path):
    peaks = {}
    data = encode(make_scene(1))
    for count in (200, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05}.png").write_bytes(data)
        arguments = ["batch", str(folder), "--out", str(tmp_path / f"out{count}"), "--format", "parquet"]
        arguments += ["--model", "panoptic", "--repository", str(batch_repository)]
        peaks[count] = peak_bytes(arguments, {**os.environ, "KNET_ENGINE_THREADS": "1"})
    assert peaks[20_000] < peaks[200] + 60 * 2**20, {count: f"{peak / 2**20:.0f} MiB" for count, peak in peaks.items()}
