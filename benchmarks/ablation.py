"""What each part of the method is worth: python -m benchmarks.ablation DATA OUT [--steps 300] [--arms NAME ...]

The nuclei recipe with one part changed at a time, each for the same number of steps, from the same seed, on the same
samples. Prints a table, then one JSON line. A run that is there already is not made again.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.config import KNetConfig
from model.kernel_update import AdaptiveKernelUpdate, KernelInteraction, KernelUpdateHead
from model.kernels import Kernels
from model.seeded_kernels import SeededKernels
from training.engine import Devices
from training.run import train_recipe

SCORES = {"AP50": "ap50_pooled", "AP50 mean": "ap50_mean", "AP": "ap_pooled", "PQ": "pq_things"}


@dataclass(frozen=True)
class Arm:
    """One change."""

    settings: dict[str, str] = field(default_factory=dict)
    patch: Callable[[], None] | None = None  # of the network's code, in the process of this run alone


def classify_only() -> None:
    """A stage that gives the first kernels their classes and changes nothing."""

    def forward(
        self: KernelUpdateHead, kernels: Kernels, features: Tensor, valid: Tensor | None = None
    ) -> tuple[Kernels, Tensor]:
        assert self.class_branch is not None
        return kernels, self.class_branch(kernels.weights)

    KernelUpdateHead.forward = forward  # type: ignore[method-assign]


def no_interaction() -> None:
    """Kernels do not see each other."""
    KernelInteraction.forward = lambda self, kernels, place, active: kernels  # type: ignore[method-assign]


def plain_sum() -> None:
    """Group features and kernels are added, without gates."""

    def forward(self: AdaptiveKernelUpdate, group_features: Tensor, kernels: Tensor) -> Tensor:
        total = self.group_norm(group_features) + self.kernel_norm(kernels)
        return F.relu(self.output_norm(self.output(total)))

    AdaptiveKernelUpdate.forward = forward  # type: ignore[method-assign]


def no_votes() -> None:
    """Every pixel stands for itself: no offsets are learned."""
    made = SeededKernels.__init__

    def make(self: SeededKernels, config: KNetConfig) -> None:
        made(self, config)
        self.seed_radius = 0.0

    SeededKernels.__init__ = make  # type: ignore[method-assign]


LEARNED = {
    "model.first_kernels": "learned",
    "model.num_kernels": "100",
    "model.num_training_kernels": "100",
    "model.sine_encoding": "true",
}
ARMS = {
    "recipe (seeded, 1 stage)": Arm(),
    "0 stages: first masks, classified": Arm(patch=classify_only),
    "2 stages": Arm({"model.num_stages": "2"}),
    "3 stages": Arm({"model.num_stages": "3"}),
    "learned first kernels, 1 stage": Arm(LEARNED),
    "learned first kernels, 3 stages": Arm(LEARNED | {"model.num_stages": "3"}),
    "learned first kernels, 0 stages": Arm(LEARNED, classify_only),
    "no kernel interaction": Arm(patch=no_interaction),
    "plain sum for adaptive update": Arm(patch=plain_sum),
    "no dice loss": Arm({"loss.dice_weight": "0"}),
    "no votes": Arm({"loss.vote_weight": "0"}, no_votes),
    "smaller backbone (lite0)": Arm({"model.backbone.name": "tf_efficientnet_lite0"}),
}


def run_arm(name: str, data: Path, out: Path, steps: int, seed: int) -> None:
    """Train one arm; in a process of its own, as it may change code."""
    arm = ARMS[name]
    if arm.patch is not None:
        arm.patch()
    settings = {"steps": str(steps), "seed": str(seed), "evaluate_every": str(steps)} | arm.settings
    train_recipe("nuclei", data, out, changes=settings, devices=Devices(accelerator="cpu"), skip_check=True)


def main() -> None:
    """Run the arms asked for and print what all of them gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    arguments = parser.parse_args()
    results = {}
    for name in arguments.arms:
        folder = arguments.out / name.replace(" ", "_").replace(":", "").replace(",", "")
        started = time.perf_counter()
        if not (folder / "metrics.json").exists():
            process = multiprocessing.get_context("spawn").Process(
                target=run_arm, args=(name, arguments.data, folder, arguments.steps, arguments.seed)
            )
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} ended with {process.exitcode}")
        scores = json.loads((folder / "metrics.json").read_text())
        results[name] = {key: scores[key] for key in SCORES.values()} | {"seconds": time.perf_counter() - started}
    table = Table("nuclei, one part changed", *SCORES, title=f"{arguments.steps} steps, seed {arguments.seed}")
    for name, scores in results.items():
        table.add_row(name, *(f"{scores[key]:.3f}" for key in SCORES.values()))
    Console().print(table)
    print(json.dumps({"steps": arguments.steps, "seed": arguments.seed, "arms": results}))


if __name__ == "__main__":
    main()
