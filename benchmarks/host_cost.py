"""What the host costs: a 640x480 JPEG in, 20 segments as RLE JSON out, with an engine that costs its process nothing.

    python -m benchmarks.host_cost --work FOLDER [--stride 4] [--clients 16] [--seconds 10] [--repeats 50] [--out FILE]

Three tables, then one JSON line:

- the server: processor time of its HTTP and codec processes for each request, and requests a second when they share one
  core (the engine process and the client have another);
- the steps, each alone in this process: the least of the repeats, as other work on the machine only adds to it;
  the rest of the server's time is HTTP, threads, and what is exchanged with the engine process;
- RLE of all segments of one id-map of 480x640 against pycocotools, segment by segment.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks import load, simulated
from benchmarks.load import Figures, load_shots, print_figures, write_json
from benchmarks.new_folder import new_folder
from benchmarks.processes import cpu_seconds, descendants, named, pin
from benchmarks.request import processor
from benchmarks.servers.host import Host
from benchmarks.serving import SERVERS, Workload, make_simulated, running, url_of
from service import artifact, image, rle
from service.answers import document
from service.geometry import cells_to_image, draw_canvases, scale_image
from service.segments import from_id_map


def measure_server(workload: Workload, log: Path, clients: int, seconds: float) -> list[Figures]:
    """Processor time of a request in the HTTP and the codec processes, with all processors and with one for them."""
    lines = []
    for cores in ("all", "one"):
        with running(SERVERS["ours"], workload, sys.executable, 1, log) as pid:
            host = [pid, *named(descendants(pid), "knet-codec")]
            if cores == "one":
                first, *others = sorted(os.sched_getaffinity(0))
                for process in (os.getpid(), *descendants(pid)):
                    pin(process, {first} if process in host else set(others or [first]))
            shots = load_shots(url_of(SERVERS["ours"], workload), workload.images)
            figures = load.measure(
                shots=shots,
                url=url_of(SERVERS["ours"], workload),
                kind="clients",
                level=clients,
                seconds=seconds,
                probe=lambda host=host: {"cpu": cpu_seconds(host)},
            )
        cpu_ms = 1000 * figures["cpu"] / max(figures["images_per_s"], 1e-9)
        lines.append({"cores of the host": cores, **figures, "cpu_ms a request": cpu_ms})
    return lines


def least_ms(step: Callable[[], Any], repeats: int) -> float:
    """Least time of one call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - begin))
    return min(times)


def measure_steps(workload: Workload, repeats: int) -> list[Figures]:
    """Milliseconds of each step of one image, in their order."""
    metadata = artifact.load(workload.artifact)
    (variant,) = metadata.variants
    host = Host(metadata, simulated.open_session(workload.artifact, variant))
    data = min(workload.images.iterdir()).read_bytes()
    prepared = host.prepare(data)
    pixels, plan = prepared.pixels, prepared.plan
    scaled = scale_image(pixels, plan)
    (outputs,) = host.run([prepared])
    read = host.read(outputs, plan)
    id_map = cells_to_image(read.id_map, plan)
    segmentation = from_id_map(id_map, read.class_index, read.score)
    ids = [segment.id for segment in segmentation.segments]
    answer = document(pixels, segmentation, host.wish, metadata)
    steps: dict[str, Callable[[], Any]] = {
        "decode JPEG": lambda: image.decode(data),
        "scale to the canvas": lambda: scale_image(pixels, plan),
        "draw the canvas": lambda: draw_canvases(scaled, plan, plan.tiles),
        "copy image and outputs": lambda: [np.array(a) for a in (prepared.inputs["image"], *outputs.values())],
        "read slots": lambda: host.read(outputs, plan),
        "cells to pixels": lambda: cells_to_image(read.id_map, plan),
        "areas and boxes": lambda: from_id_map(id_map, read.class_index, read.score),
        "RLE": lambda: rle.encode(segmentation.id_map, ids),
        "other parts of the answer": lambda: document(pixels, segmentation, host.wish, metadata),
        "JSON": lambda: orjson.dumps(answer),
    }
    times = {name: least_ms(step, repeats) for name, step in steps.items()}
    times["other parts of the answer"] -= times["RLE"]
    times["all"] = sum(times.values())
    return [{"step": name, "ms": value} for name, value in times.items()]


def measure_rle(repeats: int) -> list[Figures]:
    """Milliseconds for 20 segments of a map of 480x640: ours, and pycocotools' segment by segment."""
    id_map = simulated.draw_segments((480, 640), 20)
    ids = list(range(1, 21))

    def mask(number: int) -> NDArray[np.uint8]:
        return np.asfortranarray((id_map == number).astype(np.uint8))

    def by_pycocotools() -> list[str]:
        return [coco_mask.encode(mask(number))["counts"].decode() for number in ids]

    if by_pycocotools() != rle.encode(id_map, ids):
        raise SystemExit("the encodings differ")
    masks = [mask(number) for number in ids]
    ours = least_ms(partial(rle.encode, id_map, ids), repeats)
    times = {
        "one pass over the map": ours,
        "pycocotools, masks cut out of the map": least_ms(by_pycocotools, repeats),
        "pycocotools, masks given": least_ms(lambda: [coco_mask.encode(one) for one in masks], repeats),
    }
    return [
        {"encoding": name, "ms, all": value, "ms a mask": value / len(ids), "of ours": value / ours}
        for name, value in times.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=new_folder, required=True, help="folder for model, images and logs; made here")
    parser.add_argument("--stride", type=int, default=4, choices=(1, 2, 4, 8), help="of the model's output")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    workload = make_simulated("host", arguments.work, seconds=0.0, stride=arguments.stride)
    tables = {
        "RLE": measure_rle(arguments.repeats),
        "steps": measure_steps(workload, arguments.repeats),
        "server": measure_server(workload, arguments.work / "ours.log", arguments.clients, arguments.seconds),
    }
    for name, lines in tables.items():
        print_figures(f"{name}, {processor()}", lines)
    write_json({"processor": processor(), "stride": arguments.stride, **tables}, arguments.out)


if __name__ == "__main__":
    main()
