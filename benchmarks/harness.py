"""Measuring in a process of its own, so that memory and start-up time are those of one engine and one network alone."""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from service.session import Arrays, Session

Figures = dict[str, Any]
Job = Callable[..., Iterator[Figures]]  # called with the time when its process was started, then with what was given
LIMIT_S = 1800.0  # of one process
RESERVE_KB = 1_500_000  # of the machine's memory: what a process may not take from those beside it
ENOUGH_S = 60.0  # of repeating one step


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One way to run a network."""

    name: str
    runtime: str  # "torch", "onnxruntime", "openvino"
    precision: str = "fp32"
    compiled: bool = False  # by torch.compile


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(name="torch", runtime="torch"),
        Engine(name="torch.compile", runtime="torch", compiled=True),
        Engine(name="onnxruntime-fp32", runtime="onnxruntime"),
        Engine(name="onnxruntime-int8", runtime="onnxruntime", precision="int8"),
        Engine(name="openvino-fp32", runtime="openvino"),
        Engine(name="openvino-bf16", runtime="openvino", precision="bf16"),
        Engine(name="openvino-int8", runtime="openvino", precision="int8"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all measurements of a run share."""

    threads: int
    repeats: int  # of a step, at most; fewer, but three, where they take longer than ENOUGH_S
    batch: int  # images of the measurement of throughput


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `settings_of`, and what both scripts need beside them."""
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images at once for the throughput")
    parser.add_argument("--images", type=Path, default=Path(__file__).resolve().parent.parent / "examples")
    parser.add_argument("--work", type=Path, required=True, help="folder for networks made here; kept")
    parser.add_argument("--out", type=Path, help="JSON file of the results")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of a command line."""
    return Settings(threads=arguments.threads, repeats=arguments.repeats, batch=arguments.batch)


def measure(job: Job, *arguments: Any) -> Figures:
    """What a job tells, in a process of its own; what it told before it failed is kept, and `error` says why it did."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    started = time.monotonic()  # one clock for all processes
    process = context.Process(target=_run, args=(sender, job, started, arguments))
    process.start()
    sender.close()
    figures: Figures = {}
    while "error" not in figures:
        if receiver.poll(0.1):
            try:
                figures |= receiver.recv()
            except EOFError:
                break
        elif time.monotonic() - started > LIMIT_S:
            figures["error"] = f"stopped after {LIMIT_S:.0f} s"
        elif _available_kb() < RESERVE_KB:
            figures["error"] = "stopped: the machine's memory ran out"
    if process.is_alive() and "error" in figures:
        process.kill()
    process.join()
    if process.exitcode and "error" not in figures:
        figures["error"] = f"ended with exit code {process.exitcode}"
    return figures


def _run(sender: Connection, job: Job, started: float, arguments: Sequence[Any]) -> None:
    # Should memory run out all the same, this process goes, and none of those beside it.
    Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        for piece in job(started, *arguments):
            sender.send(piece)
    except Exception as error:  # of any runtime
        sender.send({"error": f"{type(error).__name__}: {_first_line(error)}"})


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]


def _available_kb() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def peak_mb() -> float:
    """Most memory that this process has had, all of it: interpreter, libraries, weights, activations.

    Not ru_maxrss, in which a process that was started by a larger one begins with that one's.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def seconds(step: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Times of `step`, which has run before."""
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < ENOUGH_S):
        started = clock()
        step()
        times.append(clock() - started)
    return times


def time_session(
    started: float,
    session: Session,
    one: Arrays,
    many: Arrays,
    settings: Settings,
    finish: Callable[[Mapping[str, NDArray[Any]]], Any] | None = None,
) -> Iterator[Figures]:
    """Start-up to the first answer, latency of one image, throughput of many at once, memory after each.

    Also the processor time of one image, the least of all repeats: of all threads together, it is what other work on
    the machine disturbs least.

    Args:
        finish: what is done with the outputs on the host to get an answer; timed alone and with the network.
    """

    def answer(inputs: Arrays) -> Any:
        outputs = session.run(inputs)
        return outputs if finish is None else finish(outputs)

    answer(one)
    yield {"start_s": time.monotonic() - started}
    yield {"latency_ms": 1000 * statistics.median(seconds(lambda: answer(one), settings.repeats))}
    yield {"processor_ms": 1000 * min(seconds(lambda: answer(one), settings.repeats, time.process_time))}
    if finish is not None:
        outputs = session.run(one)
        yield {
            "network_ms": 1000 * statistics.median(seconds(lambda: session.run(one), settings.repeats)),
            "finish_ms": 1000 * statistics.median(seconds(lambda: finish(outputs), settings.repeats)),
        }
    yield {"peak_mb": peak_mb()}
    if settings.batch > 1:
        answer(many)
        batch_s = statistics.median(seconds(lambda: answer(many), math.ceil(settings.repeats / 3)))
        yield {"images_per_s": settings.batch / batch_s, "batch_peak_mb": peak_mb()}


def open_graph(engine: Engine, path: Path, threads: int) -> Session:
    """An ONNX file in one of the runtimes that serve."""
    if engine.runtime == "onnxruntime":
        from service.session import OnnxSession

        return OnnxSession(path, threads=threads)
    from service.openvino_session import OpenVinoSession

    return OpenVinoSession(path, precision=engine.precision, threads=threads)


def prepare_torch(threads: int, scratch: Path) -> None:
    """Before torch is used; compiled code goes into `scratch`, so that each process compiles what it needs."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch)
    import torch

    torch.set_num_threads(threads)


def load_images(folder: Path, size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """Images of a folder (number, H, W, 3) RGB, each scaled to `size`; repeated if there are fewer."""
    import cv2

    from service.image import decode

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise SystemExit(f"{folder} has no PNG or JPEG files; name a folder of images with --images")
    images = [cv2.resize(decode(path.read_bytes()), size[::-1], interpolation=cv2.INTER_AREA) for path in paths]
    return np.stack([images[index % len(images)] for index in range(number)])


def file_mb(path: Path) -> float:
    """Of a graph, or of weights; with the file of weights that a large graph has beside it."""
    beside = path.with_name(f"{path.name}.data")
    return (path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)) / 1e6


def add_floor(figures: Figures, gflop: float | None, peak_gflop_s: float | None, batch: int) -> None:
    """Times as multiples of the floor: the network's operations at the rate of dense 3x3 convolutions."""
    if gflop is None or peak_gflop_s is None:
        return
    floor_s = gflop / peak_gflop_s
    figures["floor_ms"] = 1000 * floor_s
    if "latency_ms" in figures:
        figures["latency_floors"] = figures["latency_ms"] / 1000 / floor_s
    if "images_per_s" in figures:
        figures["batch_floors"] = 1 / figures["images_per_s"] / floor_s


COLUMNS = {
    "start_s": ("start-up s", ".1f"),
    "latency_ms": ("latency ms", ".0f"),
    "processor_ms": ("processor ms", ".0f"),
    "network_ms": ("network ms", ".0f"),
    "finish_ms": ("post ms", ".0f"),
    "latency_floors": ("x floor", ".2f"),
    "images_per_s": ("images/s", ".2f"),
    "batch_floors": ("x floor, batch", ".2f"),
    "peak_mb": ("peak MB", ".0f"),
    "batch_peak_mb": ("peak MB, batch", ".0f"),
    "file_mb": ("file MB", ".1f"),
}


def print_results(
    results: Sequence[Figures], peaks: Mapping[str, float], settings: Settings, out: Path | None, **beside: Any
) -> None:
    """A table, then all that is known as one line of JSON, which is also written to `out`.

    Args:
        results: a line of the table each.
        peaks: GFLOP/s of each engine.
        beside: what else the run was given.
    """
    from benchmarks.request import processor  # here: it imports more than the measured processes are to hold

    summary = {
        "processor": processor(),
        **asdict(settings),
        **beside,
        "peak_gflop_s": dict(peaks),
        "results": list(results),
    }
    columns = {key: column for key, column in COLUMNS.items() if any(key in result for result in results)}
    title = f"{summary['processor']}, {summary['threads']} threads, throughput with batches of {summary['batch']}"
    table = Table("network", "GFLOP", "engine", *(name for name, _ in columns.values()), "", title=title)
    for result in results:
        cells = (f"{result[key]:{form}}" if key in result else "-" for key, (_, form) in columns.items())
        gflop = f"{result['gflop']:.1f}" if result.get("gflop") else "-"
        table.add_row(result["network"], gflop, result["engine"], *cells, result.get("error", ""))
    console = Console() if Console().is_terminal else Console(width=200)
    console.print(table)
    line = json.dumps(summary)
    print(line)
    if out is not None:
        out.write_text(line + "\n")
