"""The training loop: one process, deterministic by seed and step, so a killed run resumes as if it had not been."""

import csv
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from model.checkpoint import save
from model.knet import KNet, valid_cells
from model.normalise import normalise
from training.config import TrainConfig
from training.cpu import keep_depthwise_in_fp32, tune_cpu
from training.criterion import Criterion, ImageTargets, image_targets
from training.dataset import Target, TrainingSamples, collate
from training.evaluate import evaluate, predict_by, segmenter_of
from training.formats import Record
from training.metrics import print_summary
from training.pretrained import load_imagenet

STATE = "state.pt"
RUN = "train.json"
LOG = "log.csv"
# Fields that decide nothing about the weights.
MAY_DIFFER = frozenset({"save_every", "evaluate_every"})
METRICS = "metrics.json"
LOG_EVERY = 20  # steps; short runs are logged more often


class Trainer:
    """One run.

    Args:
        config: all that decides it.
        train, val: annotated images.
        out: the checkpoint's folder; also holds what is needed to resume, the log and the scores.
    """

    def __init__(self, config: TrainConfig, train: tuple[Record, ...], val: tuple[Record, ...], out: Path) -> None:
        self.config, self.train, self.val, self.out = config, train, val, out
        torch.manual_seed(config.seed)
        self.network = KNet(config.model)
        if config.pretrained:
            load_imagenet(self.network.backbone, config.model.backbone.name)
        if config.precision == "bf16":
            keep_depthwise_in_fp32(self.network)
        tune_cpu()
        self.network.to(memory_format=torch.channels_last)
        self.ema = AveragedModel(self.network, avg_fn=partial(moving_average, config.ema_decay), use_buffers=True)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network, config), lr=config.learning_rate)
        self.criterion = Criterion(config.model, config.loss)
        self.step = 0
        self.console = Console()

    def run(self) -> None:
        """Train to the end, from where an earlier run in the same folder stopped.

        Raises:
            ValueError: the folder holds a run of another configuration.
            FloatingPointError: the loss is not finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        (self.out / RUN).write_text(self.config.to_json())
        with Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task("", total=self.config.steps, completed=self.step, loss="")
            for images, targets in self._batches():
                started = time.perf_counter()
                terms = self._train_step(images, targets)
                self.step += 1
                progress.update(task, completed=self.step, loss=f"loss {terms['total']:.3f}")
                if self._is_logged(self.step):
                    self._log(terms, time.perf_counter() - started)
                if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                    self._save_state()
                if self.step % self.config.evaluate_every == 0 and self.step < self.config.steps:
                    self.evaluate()
        if self._scored_step() != self.step:  # else an earlier run has done all of it
            self.evaluate()

    def evaluate(self) -> None:
        """Score the averaged network on the validation images; write it as the checkpoint."""
        network = self.averaged()
        save(network, self.out)
        evaluation = evaluate(
            predict_by(segmenter_of(network)),
            self.config.model.categories,
            self.val,
            show_progress=self.console.is_terminal,
        )
        print_summary(evaluation, self.console)
        (self.out / METRICS).write_text(json.dumps({"step": self.step, **evaluation.summary()}, indent=2) + "\n")

    def _scored_step(self) -> int | None:
        path = self.out / METRICS
        return json.loads(path.read_text())["step"] if path.exists() else None

    def averaged(self) -> KNet:
        """A copy of the exponential moving average of the weights."""
        network = KNet(self.config.model)
        network.load_state_dict(self.ema.module.state_dict())
        return network.eval()

    def _batches(self) -> Iterator[tuple[Tensor, list[Target]]]:
        config = self.config
        samples = TrainingSamples(
            self.train,
            config.augment,
            seed=config.seed,
            group_power=config.group_power,
            group_weights=config.group_weights,
        )
        loader: DataLoader[Any] = DataLoader(
            samples,
            batch_size=config.batch_size,
            sampler=range(self.step * config.batch_size, config.steps * config.batch_size),
            num_workers=1,
            prefetch_factor=4,
            collate_fn=collate,
        )
        return iter(loader)

    def _train_step(self, images: Tensor, targets: list[Target]) -> dict[str, float]:
        config = self.config
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor(self.step, config)
        truth = [image_targets(target, config.model) for target in targets]
        pixels, valid = batch_inputs(images, targets, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            output = self.network(pixels, valid, self._forced_seeds(truth))
        terms = self.criterion(output, truth)
        total = torch.stack(list(terms.values())).sum()
        if not total.isfinite():
            values = {name: float(term.detach()) for name, term in terms.items()}
            raise FloatingPointError(f"the loss is not finite at step {self.step}: {values}")
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.ema.update_parameters(self.network)
        values = {name: float(term.detach()) for name, term in terms.items()}
        values |= {"total": float(total.detach()), "gradient_norm": float(norm)}
        if self._is_logged(self.step + 1):
            values["class_accuracy"] = self.criterion.class_accuracy(output, truth)
        return values

    def _is_logged(self, step: int) -> bool:
        return step % min(LOG_EVERY, max(1, self.config.steps // 100)) == 0

    def _forced_seeds(self, truth: list[ImageTargets]) -> Tensor | None:
        """True centres as seeds, each with a probability that falls to 0: without them no kernel learns at first."""
        if self.config.model.first_kernels != "seeded":
            return None
        until = self.config.forced_seeds_until * self.config.steps
        probability = 1 - self.step / until if self.step < until else 0.0
        if probability == 0:
            return None
        centres = torch.stack([target.centres for target in truth])[:, None]
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        return centres & (torch.rand(centres.shape, generator=generator) < probability)

    def _log(self, terms: dict[str, float], seconds: float) -> None:
        row = {"step": self.step, "seconds": round(seconds, 3)} | {k: round(v, 5) for k, v in terms.items()}
        path = self.out / LOG
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        if not self.console.is_terminal and self.step % 100 == 0:
            self.console.print(f"step {self.step}/{self.config.steps} loss {terms['total']:.3f} {seconds:.2f} s/step")

    def _save_state(self) -> None:
        state = {
            "step": self.step,
            "config": self.config.to_json(),
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.out / f"{STATE}.part"
        torch.save(state, part)
        part.replace(self.out / STATE)

    def _resume(self) -> None:
        path = self.out / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs, ours = json.loads(state["config"]), json.loads(self.config.to_json())
        if differing := sorted(name for name in ours if ours[name] != theirs.get(name) and name not in MAY_DIFFER):
            raise ValueError(
                f"{self.out} holds a run that differs in {', '.join(differing)}; "
                "resume it with the configuration it was started with, or name another folder"
            )
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self._cut_log()
        self.console.print(f"resuming {self.out} at step {self.step} of {self.config.steps}")

    def _cut_log(self) -> None:
        """Drop the lines of steps that are done again."""
        path = self.out / LOG
        if path.exists():
            header, *rows = path.read_text().splitlines(keepends=True)
            path.write_text("".join([header, *(row for row in rows if int(row.split(",")[0]) <= self.step)]))


def batch_inputs(images: Tensor, targets: list[Target], config: TrainConfig) -> tuple[Tensor, Tensor | None]:
    """Crops (B, 3, S, S) uint8 -> what the network takes: normalised pixels, and valid cells (B, 1, h, w).

    Without valid cells masks may reach into the padding.
    """
    size, stride = images.shape[-1], config.model.feature_stride
    valid_size = torch.tensor([target.valid_size for target in targets])
    mean = torch.tensor([target.pixel_mean for target in targets])
    std = torch.tensor([target.pixel_std for target in targets])
    pixels = normalise(images, valid_cells(valid_size, size, size, 1), config.model.normalisation, mean, std)
    cells = None
    if not config.model.padding_in_masks:
        cells = valid_cells(valid_size, size // stride, size // stride, stride)
    return pixels.contiguous(memory_format=torch.channels_last), cells


def moving_average(decay: float, average: Tensor, value: Tensor, num_averaged: Tensor | int) -> Tensor:
    """Exponential moving average of weights, faster at first: the random start is forgotten soon."""
    warm = (1 + float(num_averaged)) / (10 + float(num_averaged))
    return average + (1 - min(decay, warm)) * (value - average)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_factor`; in 0..1."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(network: KNet, config: TrainConfig) -> list[dict[str, Any]]:
    """Backbone and the rest, matrices (with decay) and vectors (without)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.backbone_factor if name.startswith("backbone.") else 1.0
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((config.learning_rate * factor, decay), []).append(parameter)
    return [
        {"params": parameters, "base_lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
    ]
