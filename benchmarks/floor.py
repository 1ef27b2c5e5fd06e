"""The floor under a network's time: its floating-point operations at the rate that dense 3x3 convolutions reach.

Machines differ a hundredfold between precisions; multiples of a floor that was measured on the same machine, in the
same runtime, precision and run, do not.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import ENGINES, Engine, Figures, Settings, measure, open_graph, prepare_torch, seconds

if TYPE_CHECKING:
    from torch import nn

CHANNELS, SIDE, LAYERS = 256, 64, 8
GFLOP = 2 * 9 * CHANNELS**2 * SIDE**2 * LAYERS / 1e9
AT_LEAST = 5  # runs, of which the fastest counts: a peak


def measure_peaks(names: Iterable[str], work: Path, settings: Settings) -> dict[str, float]:
    """GFLOP/s (int8: giga-operations) of each engine that has a peak."""
    from benchmarks.dense_graph import dense_graph  # onnx is not to be in the measured processes

    graphs = {precision: work / f"dense.{precision}.onnx" for precision in ("fp32", "int8")}
    for precision, path in graphs.items():
        dense = dense_graph((CHANNELS, SIDE, LAYERS), quantised=precision == "int8")
        path.write_bytes(dense.SerializeToString())
    peaks = {}
    for name in names:
        engine = ENGINES[name]
        path = graphs["int8" if engine.precision == "int8" else "fp32"]
        figures = measure(_peak, engine, path, work, settings)
        if "gflop_s" in figures:
            peaks[name] = figures["gflop_s"]
        print(f"dense 3x3 convolutions, {name}: {figures}", flush=True)
    return peaks


def count_gflop(make: Callable[[], "nn.Module"], *shape: int) -> float:
    """Floating-point operations of one run on an input of a shape, two a multiply-add; it is run once."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        make().eval()(torch.zeros(shape))
    return counter.get_total_flops() / 1e9


def _peak(started: float, engine: Engine, path: Path, work: Path, settings: Settings) -> Iterator[Figures]:
    values = np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE, SIDE), np.float32)
    step: Callable[[], object]
    if engine.runtime == "torch":
        prepare_torch(settings.threads, work / "compiled_dense")
        import torch

        layers = []
        for _ in range(LAYERS):
            layers += [torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), torch.nn.ReLU()]
        stack = torch.nn.Sequential(*layers).eval()
        if engine.compiled:
            stack = torch.compile(stack)
        tensor = torch.from_numpy(values)

        def step() -> None:
            with torch.inference_mode():
                stack(tensor)
    else:
        session = open_graph(engine, path, settings.threads)

        def step() -> None:
            session.run({"x": values})

    step()
    yield {"gflop_s": GFLOP / min(seconds(step, max(AT_LEAST, settings.repeats)))}
