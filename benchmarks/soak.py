"""A long run at full load: does memory grow, is an answer lost, or another image's?

    python -m benchmarks.soak --work FOLDER [--engine cpu] [--minutes 15] [--clients 16] [--settle 2]
        [--kill-every S] [--reload-every S]

Our server with the bundled nuclei model, or a simulated device of --engine milliseconds. Every answer is compared with
the one that the service's own steps give for its image. On request the engine process is killed (-9) and the model
loaded anew, every so many seconds: requests may then be refused (503), but not be left without an answer. Memory is
that of all the server's processes without the pages of libraries, every five seconds: memory.csv in the work folder.
Growth is of the median of the last tenth over that of the first tenth after --settle minutes. Prints a summary,
then one JSON line; ends with status 1 if an answer was wrong or lost, or memory grew by 2 % or more.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from benchmarks import load
from benchmarks.http_client import NO_ANSWER
from benchmarks.load import Figures, load_shots, print_figures, write_json
from benchmarks.new_folder import new_folder
from benchmarks.processes import descendants, memory_mb
from benchmarks.request import processor
from benchmarks.serving import SERVERS, Workload, make_workload, running, url_of
from service import artifact

_SAMPLE_S = 5.0
_LIMIT = 0.02  # of growth


@dataclass
class Watch:
    """Samples memory and makes trouble, in a thread beside the load."""

    pid: int
    path: Path
    troubles: dict[Callable[[], None], float]  # each with the seconds between two
    samples: list[tuple[float, float, float]] = field(default_factory=list)  # seconds, MB of all, MB of the first
    num_troubles: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        due = dict(self.troubles)
        with self.path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("seconds", "all_mb", "http_mb"))
            while not self._stop.wait(_SAMPLE_S):
                now = time.monotonic() - begin
                self.samples.append((now, memory_mb(descendants(self.pid)), memory_mb([self.pid])))
                writer.writerow(f"{value:.1f}" for value in self.samples[-1])
                file.flush()
                for trouble, when in due.items():
                    if now >= when:
                        trouble()
                        self.num_troubles += 1
                        due[trouble] = now + self.troubles[trouble]


def kill_engine(pid: int) -> None:
    """Kill -9 the process that has the graph: the largest child of the server."""
    children = descendants(pid)[1:]
    if children:
        os.kill(max(children, key=lambda child: memory_mb([child])), signal.SIGKILL)


def reload_model(pid: int, folder: Path) -> None:
    """Change the artifact without changing what it does, and have the server load it anew."""
    path = folder / artifact.FILE_NAME
    metadata = json.loads(path.read_text())
    metadata["provenance"]["reload"] = metadata["provenance"].get("reload", 0) + 1
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(metadata, indent=2))
    fresh.replace(path)
    os.kill(pid, signal.SIGHUP)


def with_own_artifact(workload: Workload, work: Path) -> Workload:
    """The workload with a copy of its artifact, which may be changed."""
    folder = work / "repository" / workload.model / workload.artifact.name
    shutil.copytree(workload.artifact, folder)
    return replace(workload, artifact=folder)


def growth(samples: list[tuple[float, float, float]], settle_s: float, column: int) -> float:
    """Of the median of the last tenth over that of the first, as a share."""
    settled = [sample[column] for sample in samples if sample[0] >= settle_s]
    tenth = max(1, len(settled) // 10)
    return statistics.median(settled[-tenth:]) / statistics.median(settled[:tenth]) - 1


def main() -> None:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=new_folder, required=True, help="folder for models, images, logs; made here")
    parser.add_argument("--engine", default="cpu", help="cpu, or milliseconds of a simulated device")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--settle", type=float, default=2.0, help="minutes before memory counts")
    parser.add_argument("--kill-every", type=float, help="seconds between two ends of the engine process")
    parser.add_argument("--reload-every", type=float, help="seconds between two loads of the model")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.settle >= arguments.minutes:
        parser.error(f"--settle {arguments.settle:g} must be less than --minutes {arguments.minutes:g}")
    arguments.work.mkdir(parents=True)
    workload = with_own_artifact(make_workload(arguments.engine, arguments.work), arguments.work)
    with running(SERVERS["ours"], workload, sys.executable, 1, arguments.work / "ours.log") as pid:
        troubles: dict[Callable[[], None], float] = {}
        if arguments.kill_every:
            troubles[lambda: kill_engine(pid)] = arguments.kill_every
        if arguments.reload_every:
            troubles[lambda: reload_model(pid, workload.artifact)] = arguments.reload_every
        url = url_of(SERVERS["ours"], workload)
        shots = load_shots(url, workload.images, orjson.loads(workload.expected.read_bytes()))
        with Watch(pid, arguments.work / "memory.csv", troubles) as watch:
            figures = load.measure(url, shots, "clients", arguments.clients, seconds=60 * arguments.minutes, warm_up=0)
    settle_s = 60 * arguments.settle
    summary: Figures = {
        **figures,
        "troubles": watch.num_troubles,
        "mb_at_end": watch.samples[-1][1],
        "growth": growth(watch.samples, settle_s, 1),
        "growth_http": growth(watch.samples, settle_s, 2),
    }
    print_figures(f"{arguments.minutes:g} minutes, {processor()}", [summary])
    write_json({"processor": processor(), **summary}, arguments.out)
    if figures["wrong"] or figures["failures"].get(NO_ANSWER, 0) or summary["growth"] >= _LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
