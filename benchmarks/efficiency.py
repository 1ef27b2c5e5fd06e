"""How much of a real engine the server delivers: its images a second against 1 / (engine + host), each alone.

    python -m benchmarks.efficiency --work FOLDER [--clients 4 16 64] [--seconds 20] [--repeats 15] [--out FILE]

The bundled nuclei model on crops of 256x256. Engine: least time of an image over batches of 1 to 8, median of the
repeats, in a process of its own as in the server. Host: the service's own steps from file to JSON, one after the other,
median over the images. Prints two tables, then one JSON line.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from benchmarks import harness, load
from benchmarks.load import Figures, load_shots, print_figures, write_json
from benchmarks.new_folder import new_folder
from benchmarks.request import processor
from benchmarks.servers.host import MAX_BATCH, Options, open_host
from benchmarks.serving import SERVERS, Workload, make_workload, running, url_of


def median_ms(step: Callable[[], Any], repeats: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def measure_alone(started: float, workload: Workload, repeats: int) -> Iterator[Figures]:
    """Milliseconds of engine and host for an image, with nothing beside them."""
    host = open_host(Options(folder=workload.artifact, opener=workload.opener, port=0, workers=1))
    files = [path.read_bytes() for path in sorted(workload.images.iterdir())]
    prepared = [host.prepare(data) for data in files]
    outputs = [host.run([one])[0] for one in prepared]
    engine = {}
    for size in range(1, MAX_BATCH + 1):
        host.run(prepared[:size])
        engine[size] = median_ms(lambda size=size: host.run(prepared[:size]), repeats) / size

    def host_steps(number: int) -> None:
        host.prepare(files[number])
        orjson.dumps(host.finish(prepared[number], outputs[number]))

    host_ms = statistics.median(median_ms(lambda n=n: host_steps(n), repeats) for n in range(len(files)))
    best = min(engine, key=lambda size: engine[size])
    yield {"engine_ms": engine[best], "batch": best, "host_ms": host_ms, "engine_ms_alone": engine[1]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=new_folder, required=True, help="folder for images and logs; made here")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    workload = make_workload("cpu", arguments.work)
    alone = harness.measure(measure_alone, workload, arguments.repeats)
    bound = 1000 / (alone["engine_ms"] + alone["host_ms"])
    lines = []
    with running(SERVERS["ours"], workload, sys.executable, 1, arguments.work / "ours.log"):
        url = url_of(SERVERS["ours"], workload)
        expected = orjson.loads(workload.expected.read_bytes())
        shots = load_shots(url, workload.images, expected)
        for clients in arguments.clients:
            figures = load.measure(url, shots, "clients", clients, seconds=arguments.seconds)
            lines.append({**figures, "of the bound": figures["images_per_s"] / bound})
    print_figures(f"alone, {processor()}", [{**alone, "bound, images/s": bound}])
    print_figures("served", lines)
    write_json({"processor": processor(), "alone": alone, "bound": bound, "served": lines}, arguments.out)


if __name__ == "__main__":
    main()
