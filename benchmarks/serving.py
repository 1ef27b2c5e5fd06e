"""Servers side by side: ours, LitServe, BentoML and Ray Serve; same model, same host code, same client, same machine.

    python -m benchmarks.serving --work FOLDER --python lit_serve=PATH bento=PATH ray_serve=PATH
        [--servers ours lit_serve bento ray_serve] [--engines 5 10 20 cpu] [--workers 1 2]
        [--clients 1 8 64] [--rates 0.5 0.8] [--size 480 640] [--seconds 8] [--out FILE]

Engines: a simulated accelerator of so many milliseconds a batch (one device, whoever uses it), or `cpu`, the bundled
nuclei model on crops of 256x256. --python names the interpreter of each server's environment; ours runs in this one.
Of each server each number of --workers (ours: of engines) is tried, and the one best at the most clients is shown; a
simulated device is opened by one engine of ours. Rates are shares of our images a second at the
most clients: open loops with Poisson arrivals, the same for all servers. Every answer is compared with the one that
the service's own steps give for its image. `idle` is the share of the time in which the device did nothing; `cpu_ms`
what the server's processes, its engine included, used of processors for each image. Prints tables, then a JSON line.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks import load, simulated
from benchmarks.load import Figures, digest, load_shots, print_figures, write_json
from benchmarks.new_folder import new_folder
from benchmarks.processes import cpu_seconds, descendants
from benchmarks.request import ROOT, processor
from benchmarks.servers.host import Options, open_host

_PORT = 9400
_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """How a server is started and asked; `command` follows the interpreter."""

    name: str
    command: tuple[str, ...]
    path: str = "/segment"
    form: str | None = None  # name of the field that it takes images in; None: as the body
    environment: Mapping[str, str]


SERVERS = {
    server.name: server
    for server in (
        Server(
            name="ours",
            command=("-m", "benchmarks.servers.ours"),
            path="/v1/models/{model}/segment",
            environment={},
        ),
        Server(name="lit_serve", command=("-m", "benchmarks.servers.lit_serve"), environment={}),
        Server(
            name="bento",
            command=("-m", "bentoml", "serve", "benchmarks.servers.bento:Segment", "--port", str(_PORT)),
            form="images",
            environment={"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Server(
            name="ray_serve",
            command=("-m", "benchmarks.servers.ray_serve"),
            environment={
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_worker_niceness": "0",  # else its workers come last on a machine that is busy
                "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            },
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An engine and images for it."""

    engine: str
    artifact: Path
    images: Path
    expected: Path
    opener: str

    @property
    def is_simulated(self) -> bool:
        """Whether there is a device that keeps a record."""
        return self.engine != "cpu"

    @property
    def model(self) -> str:
        """Its name."""
        return self.artifact.parent.name


def make_workload(engine: str, work: Path, size: tuple[int, int] = (480, 640)) -> Workload:
    """The workload of `cpu`, or of a simulated device of so many milliseconds with images of `size` (H, W)."""
    if engine != "cpu":
        return make_simulated(engine, work, seconds=float(engine) / 1000, size=size)
    images = work / engine / "images"
    simulated.write_crops(images, sorted((ROOT / "examples").glob("*.png")))
    return _with_expected(engine, work, ROOT / "repository" / "nuclei" / "4", images, "service.variants")


def make_simulated(
    engine: str, work: Path, *, seconds: float, stride: int = 4, size: tuple[int, int] = (480, 640)
) -> Workload:
    """A simulated device of so many seconds a batch, and photographs of `size` (H, W)."""
    images = work / engine / "images"
    simulated.write_photos(images, ROOT / "examples" / "tissue.png", size=size)
    folder = simulated.write_artifact(work / engine / "repository", seconds=seconds, size=size, stride=stride)
    return _with_expected(engine, work, folder, images, "benchmarks.simulated")


def _with_expected(engine: str, work: Path, folder: Path, images: Path, opener: str) -> Workload:
    """What each answer must be, from the service's own steps, written beside the images."""
    host = open_host(Options(folder=folder, opener=opener, port=0, workers=1))
    answers = {path.name: digest(host.answer([path.read_bytes()])[0]) for path in images.iterdir()}
    expected = work / engine / "expected.json"
    expected.write_text(json.dumps(answers))
    return Workload(engine=engine, artifact=folder, images=images, expected=expected, opener=opener)


@contextmanager
def running(server: Server, workload: Workload, python: str, workers: int, log: Path) -> Iterator[int]:
    """The server's process id, once it answers."""
    environment = {
        **os.environ,
        **server.environment,
        "PYTHONPATH": str(ROOT),
        "SERVING_ARTIFACT": str(workload.artifact),
        "SERVING_OPENER": workload.opener,
        "SERVING_PORT": str(_PORT),
        "SERVING_WORKERS": str(workers),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python, *server.command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_it_answers(server, workload, process, log)
        yield process.pid
    finally:
        _end(process)


def _wait_until_it_answers(server: Server, workload: Workload, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{server.name} ended while it started; see {log}")
        if _loop(server, workload, "clients", 1, seconds=0.5, warm_up=0)["images"]:
            return
        time.sleep(0.5)
    raise SystemExit(f"{server.name} did not answer within {_START_S} s; see {log}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a server to end, then end what is left of its processes."""
    pids = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in pids[1:]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def url_of(server: Server, workload: Workload) -> str:
    """Where images are posted."""
    return f"http://127.0.0.1:{_PORT}{server.path.format(model=workload.model)}"


def _loop(server: Server, workload: Workload, kind: str, level: float, **options: Any) -> Figures:
    url = url_of(server, workload)
    expected = orjson.loads(workload.expected.read_bytes())
    shots = load_shots(url, workload.images, expected, form=server.form)
    return load.measure(url, shots, kind, level, **options)


def measure(server: Server, workload: Workload, pid: int, kind: str, level: float, seconds: float) -> Figures:
    """Figures of one loop, with what the server's processes and the device did in its time."""
    pids = descendants(pid)

    def probe() -> dict[str, float]:
        counters = {"cpu": cpu_seconds(pids)}
        if workload.is_simulated:
            record = simulated.read_record(workload.artifact)
            counters |= {"busy": record.seconds, "runs": record.runs, "ran": record.images}
        return counters

    figures = _loop(server, workload, kind, level, seconds=seconds, probe=probe)
    rate = max(figures["images_per_s"], 1e-9)
    derived = {"cpu_ms": 1000 * figures.pop("cpu") / rate}
    if workload.is_simulated:
        derived["idle"] = 1 - figures.pop("busy")
        derived["batch"] = figures.pop("ran") / max(figures.pop("runs"), 1e-9)
    return {"server": server.name, **figures, **derived}


def compare(
    workload: Workload,
    server: Server,
    python: str,
    workers: Sequence[int],
    levels: Sequence[tuple[str, float]],
    log: Path,
    seconds: float,
) -> list[Figures]:
    """Lines of one server, with the number of workers that did best at the first level."""
    best: list[Figures] = []
    for number in workers:
        with running(server, workload, python, number, log) as pid:
            lines = []
            for kind, level in levels:
                line = measure(server, workload, pid, kind, level, seconds)
                lines.append({"server": server.name, "workers": number, **line})
                if best and not lines[1:] and lines[0]["images_per_s"] <= best[0]["images_per_s"]:
                    break
            else:
                best = lines
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=new_folder, required=True, help="folder for models, images and logs; made here")
    parser.add_argument("--python", nargs="*", default=[], help="NAME=INTERPRETER of the other servers")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--engines", nargs="+", default=["5", "10", "20", "cpu"], help="milliseconds, or cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="of simulated images")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of a server")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rates", type=float, nargs="*", default=[0.5, 0.8], help="shares of our images a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each loop that count")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    pythons = {"ours": sys.executable} | dict(entry.split("=", 1) for entry in arguments.python)
    if missing := [name for name in arguments.servers if name not in pythons]:
        parser.error(f"--python names no interpreter of {', '.join(missing)}")
    arguments.work.mkdir(parents=True)
    results: dict[str, list[Figures]] = {}
    for engine in arguments.engines:
        workload = make_workload(engine, arguments.work, tuple(arguments.size))
        levels = [("clients", float(n)) for n in sorted(arguments.clients, reverse=True)]
        lines = results[engine] = []
        for name in arguments.servers:
            server = SERVERS[name]
            workers = [1] if name == "ours" and workload.is_simulated else arguments.workers
            log = arguments.work / f"{engine}-{name}.log"
            best = compare(workload, server, pythons[name], workers, levels, log, arguments.seconds)
            lines += best
            if name == arguments.servers[0]:
                rates = [("rate", share * best[0]["images_per_s"]) for share in arguments.rates]
                levels += rates
                workers = [best[0]["workers"]]
                lines += compare(workload, server, pythons[name], workers, rates, log, arguments.seconds)
        print_figures(f"engine {engine}, {processor()}", lines)
    write_json({"processor": processor(), "engines": results}, arguments.out)


if __name__ == "__main__":
    main()
