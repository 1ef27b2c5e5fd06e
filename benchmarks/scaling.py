"""Capacity on paper: cost of a million images, what saturates first, latency against load. Prints Markdown tables.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --engine-ms 12 --batch 8 --price 0.80 --cores 4 [--image-kb 124] [--host-ms 4.6]

The first prints tables for common GPUs. The second makes them for what you have measured and pay: --engine-ms is
the time of a run of --batch images (`python -m benchmarks.engines`, or the server's `knet_stage_duration_seconds`).

Measured figures are those of docs/results.md and docs/serving_benchmarks.md. No GPU was measured: what a GPU gives is
its data sheet's rate times a share that is assumed, `DENSE_SHARE`, times what the network loses against dense
convolutions on the CPU, which is measured.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.queueing import capacity, model

DENSE_SHARE = (0.2, 0.5)  # assumed: of a GPU's peak that dense 3x3 convolutions in fp16 reach
PCIE_SHARE = 0.8  # assumed: of the bus' rate in one direction

# Measured: an image of 640x480 as JPEG in, 20 segments as RLE JSON out (benchmarks/host_cost.py).
HOST_MS = 4.55  # processor time of an image, HTTP and codec processes, on both cores
HTTP_MS = 0.9  # of it in the HTTP process, of which a server has one
REQUEST_KB, ANSWER_KB = 124.3, 12.8

LOADS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A GPU, and the part of a host that comes with it."""

    name: str
    tflops: float  # fp16 with dense tensor cores; NVIDIA's data sheet, without sparsity
    bus_gb_s: float  # PCIe x16, one direction
    cores: float  # vCPUs for each GPU of the instance
    network_gbit_s: float  # for each GPU; assumed
    price: float  # an hour, for each GPU: an example, in dollars


MACHINES = (
    Machine(name="T4", tflops=65, bus_gb_s=16, cores=4, network_gbit_s=10, price=0.53),
    Machine(name="A10G", tflops=70, bus_gb_s=32, cores=4, network_gbit_s=10, price=1.01),
    Machine(name="L4", tflops=121, bus_gb_s=32, cores=4, network_gbit_s=10, price=0.80),
    Machine(name="A100", tflops=312, bus_gb_s=32, cores=12, network_gbit_s=10, price=4.10),
    Machine(name="H100", tflops=989, bus_gb_s=64, cores=24, network_gbit_s=10, price=12.29),
)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network at one size of canvas, with what was measured of it on the CPU (OpenVINO bf16, two cores)."""

    name: str
    gflop: float  # an image
    floors: float  # latency, in multiples of what dense convolutions need for as many operations
    cpu_ms: float  # latency
    canvas: tuple[int, int]  # height, width

    def images_per_s(self, tflops: float) -> tuple[float, float]:
        """Of an engine on a GPU, at both ends of the assumption."""
        low, high = (1000 * tflops * share / self.floors / self.gflop for share in DENSE_SHARE)
        return low, high

    @property
    def bus_mb(self) -> float:
        """Of an image: its canvas to the GPU, or its id-map (int32 at full size) back, whichever is more."""
        height, width = self.canvas
        return height * width * max(3, 4) / 1e6


NETWORKS = (
    Network(name="K-Net R50, 512x512", gflop=102.7, floors=1.16, cpu_ms=121, canvas=(512, 512)),
    Network(name="K-Net R50, 800x1216", gflop=376, floors=1.50, cpu_ms=796, canvas=(800, 1216)),
    Network(name="nuclei 3, 512x512", gflop=78.4, floors=4.78, cpu_ms=380, canvas=(512, 512)),
    Network(name="cropweed 2, 736x960", gflop=29.1, floors=3.90, cpu_ms=115, canvas=(736, 960)),
)
CPU_PRICE = 0.10  # an hour of two cores: an example, in dollars


def cost_per_million(images_per_s: float, price: float) -> float:
    """Dollars for a million images on a machine that is busy all the time, at `price` an hour."""
    return 1e6 / images_per_s / 3600 * price


def limits(machine: Machine, bus_mb: float, host_ms: float = HOST_MS, image_kb: float = REQUEST_KB) -> dict[str, float]:
    """Images a second that each part beside the engine allows."""
    larger_kb = max(image_kb, ANSWER_KB)  # both directions are there at once
    return {
        "processors": 1000 * machine.cores / host_ms,
        "HTTP process": 1000 / HTTP_MS,
        "PCIe": 1000 * machine.bus_gb_s * PCIE_SHARE / bus_mb,
        "network": 1e6 * machine.network_gbit_s / 8 / larger_kb,
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def span(low: float, high: float) -> str:
    """A range."""
    return f"{number(low)} to {number(high)}"


def cpu_table() -> str:
    """Measured: the cost on two cores."""
    rows = []
    for network in NETWORKS:
        rate = 1000 / (network.cpu_ms + HOST_MS)  # engine and host share the cores
        rows.append(
            [network.name, f"{network.cpu_ms:g}", number(rate), number(cost_per_million(rate, CPU_PRICE)) + " $"]
        )
    return markdown(["network", "engine, ms", "images/s", f"a million at {CPU_PRICE:.2f} $/h"], rows)


def cost_table() -> str:
    """Estimated: images a second of the engine and the cost of a million, for each GPU."""
    rows = []
    for machine in MACHINES:
        row = [f"{machine.name}, {machine.price:.2f} $/h"]
        for network in NETWORKS:
            low, high = network.images_per_s(machine.tflops)
            dear, cheap = (cost_per_million(rate, machine.price) for rate in (low, high))
            row.append(f"{span(low, high)}/s: {span(cheap, dear)} $")
        rows.append(row)
    return markdown(["GPU", *(network.name for network in NETWORKS)], rows)


def saturation_table() -> str:
    """What each part allows in images a second, and which is the first to be full."""
    rows = []
    for machine in MACHINES:
        for network in (NETWORKS[0], NETWORKS[3]):
            low, high = network.images_per_s(machine.tflops)
            others = limits(machine, network.bus_mb)
            first = min(others, key=lambda name: others[name])
            if high <= others[first]:
                verdict = "engine"
            elif low >= others[first]:
                verdict = first
            else:
                verdict = f"engine or {first}"
            cores = span(*(rate * HOST_MS / 1000 for rate in (low, high)))
            values = [number(value) for value in others.values()]
            rows.append([machine.name, network.name, span(low, high), *values, f"**{verdict}**", cores])
    head = ["GPU", "network", "engine", "processors", "HTTP process", "PCIe", "network", "first", "cores that it needs"]
    return markdown(head, rows)


def latency_table(run_s: Sequence[float]) -> str:
    """The queueing model: latency of queue and engine against load."""
    rows = []
    for load in LOADS:
        rate = load * capacity(run_s)
        latency = model(rate, run_s)
        times = [latency.mean, *(latency.percentile(percent) for percent in (50, 95, 99))]
        values = [f"{1000 * value:.0f}" for value in times]
        rows.append(
            [
                f"{load:.0%}",
                number(rate),
                *values,
                *map(number, (latency.batch, latency.waiting)),
                f"{latency.busy:.0%}",
            ]
        )
    return markdown(["load", "images/s", "mean, ms", "p50", "p95", "p99", "batch", "waiting", "busy"], rows)


BATCHING_RUN_S = (0.05,) * 8  # a device whose run takes as long for eight images as for one
CPU_RUN_S = (0.0509,)  # measured: nuclei 3 on 256x256, OpenVINO bf16, two cores; images run one by one


def tables() -> dict[str, str]:
    """All tables, by their titles."""
    return {
        "Measured: two cores": cpu_table(),
        "Estimated: GPUs": cost_table(),
        "What saturates first": saturation_table(),
        "A device of 50 ms a run, up to 8 images": latency_table(BATCHING_RUN_S),
        "The CPU engine, 50.9 ms an image": latency_table(CPU_RUN_S),
    }


def own_tables(arguments: argparse.Namespace) -> dict[str, str]:
    """For figures of the user's own."""
    run_s = (arguments.engine_ms / 1000,) * arguments.batch
    machine = Machine(
        name="yours",
        tflops=0,
        bus_gb_s=arguments.bus_gb_s,
        cores=arguments.cores,
        network_gbit_s=arguments.network_gbit_s,
        price=arguments.price,
    )
    parts = {"engine": capacity(run_s)} | limits(
        machine, bus_mb=arguments.canvas_megapixels * 4, host_ms=arguments.host_ms, image_kb=arguments.image_kb
    )
    first = min(parts, key=lambda name: parts[name])
    rows = [
        [name, number(value), number(cost_per_million(value, arguments.price)) + " $"] for name, value in parts.items()
    ]
    limits_table = markdown(["part", "images/s", "a million at that rate"], rows)
    return {
        f"First: {first}": limits_table,
        "Latency of queue and engine": latency_table(run_s),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-ms", type=float, help="time of a run of --batch images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--price", type=float, default=1.0, help="of the machine, an hour")
    parser.add_argument("--cores", type=float, default=4, help="processors for everything but the engine")
    parser.add_argument("--host-ms", type=float, default=HOST_MS, help="processor time of an image beside the engine")
    parser.add_argument("--image-kb", type=float, default=REQUEST_KB, help="size of a request")
    parser.add_argument("--canvas-megapixels", type=float, default=0.26)
    parser.add_argument("--bus-gb-s", type=float, default=16, help="PCIe, one direction")
    parser.add_argument("--network-gbit-s", type=float, default=10)
    arguments = parser.parse_args()
    for title, table in (tables() if arguments.engine_ms is None else own_tables(arguments)).items():
        print(f"\n{title}\n\n{table}")


if __name__ == "__main__":
    main()
