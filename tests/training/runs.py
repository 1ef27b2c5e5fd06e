"""Starts runs in processes of their own, and reads what they leave. Not a test file: tests run it by `runpy`."""

import csv
import subprocess
import sys
import time
from pathlib import Path

from training.run_log import LOG

PROGRAM = Path(__file__).with_name("tiny_run.py")
CLOCK = {"seconds", "images_per_second", "memory_gb"}


def start(data, out, *settings, **options):
    command = [sys.executable, str(PROGRAM), str(data), str(out)]
    command += [part if part.startswith("--") or part.isdigit() else f"--set={part}" for part in settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finish(process, expected=0):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == expected, text
    return text


def wait_for(condition, process):
    """Until something is so; the process must live that long."""
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.02)


def rows_of(out):
    with (out / LOG).open() as file:
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def num_rows(out):
    return (out / LOG).read_text().count("\n") - 1 if (out / LOG).exists() else 0
