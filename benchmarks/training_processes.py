"""Training on one and on several processes of a machine: images a second of the same run, by `knet train` itself.

    python -m benchmarks.training_processes --data FOLDER --work FOLDER [--recipe nuclei] [--steps 30] [--set KEY=VALUE]

Each line is a run of its own, stopped by SIGTERM after --steps logged steps: N processes of T threads each, on the
same samples. `two runs` are two of one thread each at the same time, which share nothing: the most that two processes
"""

import argparse
import csv
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Figures, print_figures, write_json
from benchmarks.request import ROOT, processor
from training.run_log import LOG


@dataclass(frozen=True)
class Layout:
    """How a run is laid out on the machine."""

    name: str
    processes: int
    threads: int  # of each
    runs: int = 1  # at the same time


LAYOUTS = (
    Layout("1 process, 1 thread", 1, 1),
    Layout("1 process, 2 threads", 1, 2),
    Layout("2 processes, 1 thread each", 2, 1),
    Layout("two runs, 1 thread each", 1, 1, runs=2),
)


def start(layout: Layout, out: Path, arguments: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """A run in `out`."""
    settings = ["log_every=1", "save_every=100000", "evaluate_every=100000", "steps=100000", *arguments.set]
    command = [sys.executable, "-m", "knet", "train", arguments.recipe, "--data", arguments.data, "--out", out]
    command += ["--skip-check", "--accelerator", "cpu", "--devices", str(layout.processes)]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": str(layout.threads), "PYTHONPATH": str(ROOT)}
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([str(part) for part in command], env=environment, stdout=log, stderr=log)


def seconds_of_steps(out: Path) -> list[float]:
    """Of the steps that are logged so far."""
    if not (out / LOG).exists():
        return []
    with (out / LOG).open() as file:
        return [float(row["seconds"]) for row in csv.DictReader(file) if row.get("seconds")]


def measure(layout: Layout, arguments: argparse.Namespace) -> Figures:
    """Images a second, over all runs of the layout."""
    outs = [
        arguments.work / f"{layout.processes}x{layout.threads}-{number}of{layout.runs}" for number in range(layout.runs)
    ]
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)
    processes = [start(layout, out, arguments) for out in outs]
    while min(len(seconds_of_steps(out)) for out in outs) < arguments.steps:
        if any(process.poll() is not None for process in processes):
            raise SystemExit(f"a run of {layout.name!r} ended; see the logs in {arguments.work}")
        time.sleep(0.5)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
    steps = [seconds_of_steps(out)[arguments.steps // 4 : arguments.steps] for out in outs]
    medians = [statistics.median(values) for values in steps]
    return {
        "layout": layout.name,
        "step_s": statistics.mean(medians),
        "images_per_s": sum(arguments.batch / seconds for seconds in medians),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; made here")
    parser.add_argument("--recipe", default="nuclei")
    parser.add_argument("--batch", type=int, default=6, help="crops a step, over all processes")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of knet train")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.set = [*arguments.set, f"batch_size={arguments.batch}", "batch_norm=per_process"]
    lines = [measure(layout, arguments) for layout in LAYOUTS]
    for line in lines:
        line["of 1 process, 1 thread"] = line["images_per_s"] / lines[0]["images_per_s"]
    print_figures(f"{arguments.recipe}, batch {arguments.batch}, {processor()}", lines)
    write_json({"processor": processor(), "batch": arguments.batch, "lines": lines}, arguments.out)


if __name__ == "__main__":
    main()
