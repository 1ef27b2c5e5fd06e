"""Where the time of a network goes in OpenVINO: the runtime's own counters, summed by block of the network.

    python -m benchmarks.blocks GRAPH [--precision bf16] [--canvas 512x512] [--repeats 20] [--threads N]

GRAPH is model.onnx or model.int8.onnx in an artifact's folder. Nodes are named by the block that they are of; one that
the runtime made counts with the block that ran before it. Each node's time is the least of its repeats, which other
work on the machine disturbs least; their sum is less than a whole run takes, which the last line has. Prints a table,
then one JSON line.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from rich.console import Console
from rich.table import Table

from benchmarks.engines import graph_inputs
from benchmarks.request import processor
from service import artifact
from service.session import available_cpus

BLOCKS = ("backbone", "neck", "kernel_head", "stages", "merge")  # in the order of the network
AROUND = "around"  # normalisation and the choice of classes: nodes of no block
TOP = "model/"  # how their names begin


def sum_blocks(runs: list[list[Any]]) -> dict[str, float]:
    """Milliseconds of each block, from the profiles of runs: lists of nodes in the order in which they ran."""
    totals = dict.fromkeys((*BLOCKS, AROUND), 0.0)
    block = AROUND
    for nodes in zip(*runs, strict=True):
        name = nodes[0].node_name
        around = AROUND if name.startswith(TOP) else block
        block = next((known for known in BLOCKS if name.startswith(f"{known}/")), around)
        totals[block] += min(node.real_time.total_seconds() for node in nodes) * 1000
    return totals


def measure(graph: Path, precision: str, canvas: tuple[int, int], repeats: int, threads: int) -> dict[str, float]:
    """Milliseconds of each block, and of the fastest whole run as `whole`."""
    metadata = artifact.load(graph.parent)
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, "bf16"), "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(
        core.read_model(str(graph)), "CPU", options | {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads}
    )
    noise = np.random.default_rng(0).integers(0, 256, (1, *canvas, 3), np.uint8)
    wanted = {value.any_name for value in compiled.inputs}
    inputs = {name: array for name, array in graph_inputs(metadata, noise).items() if name in wanted}
    request = compiled.create_infer_request()
    request.infer(inputs)
    runs, seconds = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        request.infer(inputs)
        seconds.append(time.perf_counter() - started)
        runs.append(list(request.profiling_info))
    same = Counter(len(run) for run in runs)
    assert len(same) == 1, f"runs of one graph have different nodes: {same}"
    return sum_blocks(runs) | {"whole": min(seconds) * 1000}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of what is not quantised")
    parser.add_argument("--canvas", default="512x512", help="HEIGHTxWIDTH")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=available_cpus())
    given = parser.parse_args()
    height, width = map(int, given.canvas.split("x"))
    totals = measure(given.graph, given.precision, (height, width), given.repeats, given.threads)
    inside = sum(milliseconds for block, milliseconds in totals.items() if block != "whole")
    table = Table("block", "ms", "share", title=f"{processor()}, {given.threads} threads, {given.canvas}")
    for block, milliseconds in totals.items():
        table.add_row(block, f"{milliseconds:.1f}", "" if block == "whole" else f"{milliseconds / inside:.1%}")
    Console().print(table)
    print(json.dumps({"processor": processor(), **vars(given), "graph": str(given.graph), "milliseconds": totals}))


if __name__ == "__main__":
    main()
