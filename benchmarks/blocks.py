"""Where the time of a network goes: its graph, cut behind each of its blocks.

    python -m benchmarks.blocks GRAPH [--engine openvino-bf16] [--canvas 512x512] [--repeats 20] [--threads 1]

GRAPH is model.onnx in an artifact's folder, whose nodes are named by the block that they are of; not a quantised one,
which engines fuse otherwise when it is cut.
Backbone alone, backbone and neck, and so on to the whole graph are run one after the other; a block's time is what it
adds. Times are the least processor time of all repeats, which other work on the machine disturbs little. Prints a
table, then one JSON line.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.engines import graph_inputs
from benchmarks.harness import ENGINES, Engine, open_graph, seconds
from benchmarks.request import processor
from service import artifact

BLOCKS = ("backbone", "neck", "kernel_head", "stages", "merge")  # in the order of the network


def cut_graphs(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graph up to and with each block; with the last of them it is the whole."""
    inferred = onnx.shape_inference.infer_shapes(model)
    extractor = onnx.utils.Extractor(inferred)
    inputs = [value.name for value in inferred.graph.input]
    for number, block in enumerate(BLOCKS[:-1], start=1):
        until = tuple(f"{name}/" for name in BLOCKS[:number])
        made = {name for node in inferred.graph.node if node.name.startswith(until) for name in node.output}
        read = {name for node in inferred.graph.node if not node.name.startswith(until) for name in node.input}
        yield block, extractor.extract_model(inputs, sorted(made & read))
    yield BLOCKS[-1], model


def measure(graph: Path, engine: Engine, canvas: tuple[int, int], repeats: int, threads: int) -> dict[str, float]:
    """Milliseconds that each block adds; the first has normalisation, the last the choice of classes."""
    noise = np.random.default_rng(0).integers(0, 256, (1, *canvas, 3), np.uint8)
    inputs = graph_inputs(artifact.load(graph.parent), noise)
    added, before = {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for block, model in cut_graphs(onnx.load(graph)):
            path = Path(folder) / f"{block}.onnx"
            onnx.save(model, path)
            session = open_graph(engine, path, threads)
            session.run(inputs)
            until = 1000 * min(seconds(lambda: session.run(inputs), repeats, time.process_time))  # noqa: B023
            added[block], before = until - before, until
    return added


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    names = [name for name, engine in ENGINES.items() if engine.runtime != "torch" and engine.precision != "int8"]
    parser.add_argument("--engine", choices=names, default="openvino-bf16")
    parser.add_argument("--canvas", default="512x512", help="HEIGHTxWIDTH")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    height, width = map(int, given.canvas.split("x"))
    added = measure(given.graph, ENGINES[given.engine], (height, width), given.repeats, given.threads)
    whole = sum(added.values())
    table = Table("block", "ms", "share", title=f"{given.engine}, {given.canvas}, {given.threads} threads")
    for block, milliseconds in (added | {"whole": whole}).items():
        table.add_row(block, f"{milliseconds:.1f}", f"{milliseconds / whole:.1%}")
    Console().print(table)
    print(json.dumps({"processor": processor(), **vars(given), "graph": str(given.graph), "milliseconds": added}))


if __name__ == "__main__":
    main()
