"""What a training step takes: memory and images a second, for each option of the loss and of the engine.

    python -m benchmarks.training [--data FOLDER] [--size 512] [--batch 2] [--steps 3] [--device cpu|cuda]

The panoptic K-Net of the paper (ResNet-50, 133 classes, three stages, random weights): forward, loss, backward,
clipping and AdamW. FOLDER is a COCO panoptic set whose images and segments are used; without it, layouts are made up.
Each line is measured in a process of its own; memory is the most that this process ever holds (CUDA: that torch has
allocated). On one thread of a CPU (OMP_NUM_THREADS=1) seconds are those that the process had the CPU, else the clock's.
Prints a table, then one JSON line.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.request import processor
from model.knet import KNet
from model.official import R50, coco
from training.activation_checkpointing import checkpoint_activations
from training.augment import UNCHANGED
from training.config import Precision, TrainConfig
from training.cpu import tune_cpu
from training.data.open import open_data
from training.dataset import Target, TrainingSamples
from training.loss_config import LossConfig
from training.loss_network import Batch, LossNetwork
from training.optimiser import make_optimiser
from training.precision import keep_in_fp32

PAPER = LossConfig()
POINTS = LossConfig(points=12_544)
FITTED = replace(UNCHANGED, placement="fit", fit_scale=(1.0, 1.0))


@dataclass(frozen=True)
class Variant:
    """One line of the table."""

    name: str
    loss: LossConfig = PAPER
    precision: Precision = "fp32"
    checkpointing: bool = False


VARIANTS = (
    Variant("the paper's"),
    Variant("12,544 points", POINTS),
    Variant("3,136 points", replace(PAPER, points=3136)),
    Variant("no rank loss", replace(PAPER, rank_weight=0.0)),
    Variant("12,544 points, no rank loss", replace(POINTS, rank_weight=0.0)),
    Variant("activation checkpointing", checkpointing=True),
    Variant("bf16", precision="bf16"),
    Variant("bf16, 12,544 points, checkpointing", POINTS, "bf16", True),
)


@dataclass(frozen=True)
class Setting:
    """What all lines share."""

    data: Path | None
    size: int
    batch: int
    steps: int
    device: str


def batches(setting: Setting) -> list[tuple[Tensor, list[Target]]]:
    """Images (B, 3, S, S) uint8 with their targets, one a step and the first again for the step that is not counted."""
    number = setting.batch * setting.steps
    if setting.data is None:
        samples = [made_up(setting.size, seed) for seed in range(number)]
    else:
        records = open_data(setting.data, "train").records
        real = TrainingSamples(records, replace(FITTED, crop_size=setting.size), seed=0)
        samples = [real[i] for i in range(number)]
    groups = [samples[i : i + setting.batch] for i in range(0, number, setting.batch)]
    return [(torch.stack([image for image, _ in group]), [target for _, target in group]) for group in groups]


def made_up(size: int, seed: int) -> tuple[Tensor, Target]:
    """Noise, and a layout like COCO's: 4 regions of stuff and 7 discs of things, as its images have on average."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    places = rng.uniform(0, size, (4, 2))
    owner = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in places], axis=0)
    classes = [*rng.choice(np.arange(80, 133), 4, replace=False), *rng.integers(0, 80, 7)]
    for number in range(4, 11):
        centre_y, centre_x, radius = *rng.uniform(0, size, 2), size * rng.uniform(0.02, 0.3)
        owner[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = number
    target = Target(
        masks=torch.from_numpy(owner == np.arange(11)[:, None, None]),
        class_index=torch.tensor(np.array(classes, np.int64)),
        crowd_masks=torch.zeros(0, size, size, dtype=torch.bool),
        crowd_class=torch.zeros(0, dtype=torch.int64),
        valid_size=(size, size),
        pixel_mean=127.5,
        pixel_std=73.9,
        path=Path("made up"),
    )
    return torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8)), target


def measure(variant: Variant, setting: Setting) -> dict[str, float]:
    """The peak of memory in MB, that before the first step, and seconds of a step and of its loss (medians)."""
    torch.manual_seed(0)
    device = torch.device(setting.device)
    if device.type == "cpu":
        tune_cpu()
    config = TrainConfig(
        model=coco("panoptic", R50),
        loss=variant.loss,
        augment=replace(FITTED, crop_size=setting.size),
        batch_size=setting.batch,
        precision=variant.precision,
    )
    network = KNet(config.model)
    keep_in_fp32(network, config.precision, device.type)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if variant.checkpointing:
        checkpoint_activations(network)
    module = LossNetwork(network, config).train()
    optimiser = make_optimiser(network, config)
    steps, losses = [], []
    data = batches(setting)
    before = peak_mb(device)
    for number, (images, targets) in enumerate([data[0], *data]):
        started = now(device)
        batch = Batch(images.to(device), targets, range(number * len(images), (number + 1) * len(images)))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output, truth = module.predict(batch)
        predicted = now(device)
        terms = module.criterion(output, truth, torch.Generator(device).manual_seed(number))
        total = torch.stack(list(terms.values())).sum()
        lost = now(device)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        if number:
            steps.append(now(device) - started)
            losses.append(lost - predicted)
    seconds = {"step_s": statistics.median(steps), "loss_s": statistics.median(losses)}
    return {"before_mb": before, "peak_mb": peak_mb(device), **seconds}


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()  # other work on the same core does not lengthen it
    return time.perf_counter()


def peak_mb(device: torch.device) -> float:
    """The most memory this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a COCO panoptic set; default: made-up layouts")
    parser.add_argument("--size", type=int, default=512, help="height and width of the crops")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="counted ones; one more goes before them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", help="names of lines")
    arguments = parser.parse_args()
    setting = Setting(arguments.data, arguments.size, arguments.batch, arguments.steps, arguments.device)
    names = arguments.only or [variant.name for variant in VARIANTS]

    on = (
        torch.cuda.get_device_name()
        if setting.device == "cuda"
        else f"{processor()}, {torch.get_num_threads()} threads"
    )
    title = f"batch {setting.batch}, {setting.size}x{setting.size}, {on}"
    table = Table("", "peak MB", "before the steps", "s/step", "in the loss", "images/s", title=title)
    results: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS:
        if variant.name in names:
            measured = in_own_process(variant, setting)
            results[variant.name] = measured
            seconds = [f"{measured[name]:.2f}" for name in ("step_s", "loss_s")]
            rate = setting.batch / measured["step_s"]
            memory = [f"{measured[name]:.0f}" for name in ("peak_mb", "before_mb")]
            table.add_row(variant.name, *memory, *seconds, f"{rate:.3f}")
    Console().print(table)
    summary = {"on": on, "size": setting.size, "batch": setting.batch, "torch": torch.__version__, "results": results}
    Console(soft_wrap=True).print(json.dumps(summary), highlight=False)


def in_own_process(variant: Variant, setting: Setting) -> dict[str, float]:
    """`measure` where nothing else has used memory before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (variant, setting))


if __name__ == "__main__":
    main()
