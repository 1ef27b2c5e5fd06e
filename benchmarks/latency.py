"""Latency against load: queueing model, simulation, and the real server in front of a simulated accelerator.

    python -m benchmarks.latency --work FOLDER [--run-ms 50] [--loads 0.3 0.6 0.8] [--seconds 60] [--figure FILE.svg]

The accelerator takes --run-ms for a run of up to 8 images (benchmarks/simulated.py), the server is ours, requests come
at random times (benchmarks/load.py, an open loop). What the server adds to queue and engine (HTTP, decoding, encoding)
is measured with one request at a time, and added to the model's latencies. Prints a table, then one JSON line.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import Figures, print_figures, write_json
from benchmarks.new_folder import new_folder
from benchmarks.queueing import capacity, model, simulate
from benchmarks.request import processor
from benchmarks.servers.host import MAX_BATCH
from benchmarks.serving import SERVERS, make_simulated, measure, running

_SIMULATED_IMAGES = 200_000
_PERCENTS = (50, 95, 99)
_CURVE = np.linspace(0.04, 0.94, 46)


def measure_loads(
    work: Path, run_s: Sequence[float], loads: Sequence[float], seconds: float
) -> tuple[float, list[Figures]]:
    """What the server adds to a run, in ms, and its figures at each load."""
    workload = make_simulated("device", work, seconds=run_s[-1])
    server = SERVERS["ours"]
    with running(server, workload, sys.executable, 1, work / "ours.log") as pid:
        alone = measure(server, workload, pid, "clients", 1, seconds / 3)
        lines = [measure(server, workload, pid, "rate", load * capacity(run_s), seconds) for load in loads]
    return alone["p50_ms"] - 1000 * run_s[0], lines


def compare(
    run_s: Sequence[float], loads: Sequence[float], host_ms: float, measured: Sequence[Figures]
) -> list[Figures]:
    """A line for each load and way to know."""
    rows = []
    for load, line in zip(loads, measured, strict=True):
        rate = load * capacity(run_s)
        expected = model(rate, run_s)
        played = 1000 * simulate(rate, run_s, images=_SIMULATED_IMAGES)[1000:] + host_ms
        of_model = [1000 * expected.percentile(percent) + host_ms for percent in _PERCENTS]
        rows += [
            row("model", load, rate, of_model, expected.batch),
            row("simulation", load, rate, np.percentile(played, _PERCENTS).tolist(), None),
            row("measured", load, rate, [line[f"p{percent}_ms"] for percent in _PERCENTS], line["batch"])
            | {"images": line["images"], "wrong": line["wrong"]},
        ]
    return rows


def row(way: str, load: float, rate: float, milliseconds: Sequence[float], batch: float | None) -> Figures:
    """One line of the table."""
    percents = {f"p{percent}_ms": value for percent, value in zip(_PERCENTS, milliseconds, strict=True)}
    return {"load": load, "way": way, "a_second": rate, **percents, "batch": batch, "images": None, "wrong": None}


def figure(run_s: Sequence[float], host_ms: float, rows: Sequence[Figures]) -> str:
    """An SVG: lines of the model, circles of the simulation, crosses of what was measured."""
    width, height, left, top, right, bottom = 640, 400, 60, 20, 20, 50
    curves = {
        p: [1000 * model(load * capacity(run_s), run_s).percentile(p) + host_ms for load in _CURVE] for p in _PERCENTS
    }
    most = 1.05 * max(max(curves[99]), *(line["p99_ms"] for line in rows))

    def x(load: float) -> float:
        return left + load * (width - left - right)

    def y(milliseconds: float) -> float:
        return height - bottom - milliseconds / most * (height - top - bottom)

    colours = dict(zip(_PERCENTS, ("#1b7837", "#2166ac", "#b2182b"), strict=True))
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    for load in np.arange(0, 1.01, 0.2):
        parts.append(f'<line x1="{x(load):.1f}" y1="{y(0):.1f}" x2="{x(load):.1f}" y2="{y(most):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(load):.1f}" y="{y(0) + 18:.1f}" text-anchor="middle">{load:.0%}</text>')
    for milliseconds in range(0, int(most) + 1, 50):
        parts.append(
            f'<line x1="{x(0)}" y1="{y(milliseconds):.1f}" x2="{x(1)}" y2="{y(milliseconds):.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{left - 8}" y="{y(milliseconds) + 4:.1f}" text-anchor="end">{milliseconds}</text>')
    for percent, values in curves.items():
        points = " ".join(f"{x(load):.1f},{y(value):.1f}" for load, value in zip(_CURVE, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[percent]}" stroke-width="2"/>')
        line_y = top + 18 * (_PERCENTS.index(percent) + 1)
        parts.append(f'<text x="{left + 14}" y="{line_y}" fill="{colours[percent]}">p{percent}</text>')
        for line in rows:
            place, value = x(line["load"]), y(line[f"p{percent}_ms"])
            if line["way"] == "simulation":
                parts.append(
                    f'<circle cx="{place:.1f}" cy="{value:.1f}" r="4" fill="none" stroke="{colours[percent]}"/>'
                )
            elif line["way"] == "measured":
                cross = f"M{place - 5:.1f} {value - 5:.1f}l10 10m0 -10l-10 10"
                parts.append(f'<path d="{cross}" stroke="{colours[percent]}" stroke-width="2"/>')
    parts.append(f'<text x="{x(0.5)}" y="{height - 10}" text-anchor="middle">load, of what full batches give</text>')
    parts.append(f'<text x="{left + 60}" y="{top + 18}">latency, ms: model, o simulation, x measured</text>')
    box, font = f"0 0 {width} {height}", 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {font}>'
    return "\n".join([head, *parts, "</svg>", ""])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=new_folder, required=True, help="folder for model, images and logs; made here")
    parser.add_argument("--run-ms", type=float, default=50.0, help="of the accelerator, whatever the batch")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.8], help="of 8 images a run")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load that count")
    parser.add_argument("--figure", type=Path, help="SVG file to write")
    parser.add_argument("--again", type=Path, help="JSON of an earlier run: draw that, measure nothing")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.again:
        document: dict[str, Any] = json.loads(arguments.again.read_text())
    else:
        arguments.work.mkdir(parents=True)
        run_s = (arguments.run_ms / 1000,) * MAX_BATCH
        host_ms, lines = measure_loads(arguments.work, run_s, arguments.loads, arguments.seconds)
        rows = compare(run_s, arguments.loads, host_ms, lines)
        document = {"processor": processor(), "run_s": run_s, "host_ms": host_ms, "rows": rows}
    print_figures(f"host {document['host_ms']:.1f} ms, {document['processor']}", document["rows"])
    if arguments.figure:
        arguments.figure.write_text(figure(document["run_s"], document["host_ms"], document["rows"]))
    write_json(document, arguments.out)


if __name__ == "__main__":
    main()
