"""Everything that decides a training run."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from model.config import KNetConfig
from training.augment import AugmentConfig
from training.loss_config import LossConfig

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["cosine", "steps"]
BatchNorm = Literal["synchronised", "per_process", "frozen"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete run; recipes are functions that return one.

    It does not say on how many devices: the same run on one or on eight sees the same samples.
    """

    model: KNetConfig
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    pretrained: bool = True  # ImageNet weights in the backbone, from a package
    backbone_weights: str | None = None  # a file of weights for the backbone instead
    start_from: str | None = None  # a checkpoint or artifact: its weights instead, but those of other categories
    steps: int = 5000  # of the optimiser
    batch_size: int = 6  # crops a step, over all devices and micro-batches
    accumulate: int = 1  # micro-batches of a step on each device; a loss is normalised within its own
    learning_rate: float = 1e-4
    backbone_factor: float = 0.25  # of the learning rate
    weight_decay: float = 0.05
    decay_vectors: bool = False  # biases and norms decay too, as in the paper's code
    warmup_steps: int = 100
    warmup_factor: float = 0.01  # of the learning rate, at the start of the warm-up
    schedule: Schedule = "cosine"  # from the warm-up to the end; "steps": times 0.1 at each of `decay_at`
    decay_at: tuple[int, ...] = ()
    final_factor: float = 0.02  # of the learning rate, at the end of the cosine
    clip_norm: float = 1.0  # of the gradient
    ema_decay: float = 0.999  # of the average of the weights that is scored and kept; 0: the weights themselves
    batch_norm: BatchNorm = "synchronised"  # statistics of a step: over all devices, each its own, or never touched
    forced_seeds_until: float = 0.15  # share of the run in which true centres are made seeds, ever more rarely
    group_power: float = 0.5  # a kind of image is drawn by (its count) ** this; 1: every image once an epoch
    group_weights: dict[str, float] = field(default_factory=dict)  # times this, by the end of the kind's name
    precision: Precision = "fp32"  # the others: automatic mixed precision; fp16 on CUDA only
    compile: bool = False  # torch.compile the network
    checkpoint_activations: bool = False  # compute the network's parts again in the backward pass: slower, less memory
    seed: int = 0
    workers: int = 1  # processes that read and augment, on each device; 0: none beside the one that trains
    cache_gb: float = 1.0  # of decoded images that are kept, on each device
    log_every: int = 20  # steps
    save_every: int = 200  # steps
    evaluate_every: int = 2500  # steps

    def __post_init__(self) -> None:
        for name, is_legal, legal in self._rules():
            if not is_legal:
                raise ValueError(f"{name} is {getattr(self, name)!r}; legal: {legal}")
        size, multiple = self.augment.crop_size, self.model.size_multiple
        num_seeds = self.model.num_training_kernels if self.model.first_kernels == "seeded" else 0
        if size % multiple or (size // self.model.feature_stride) ** 2 < num_seeds:
            cells = f" with at least {num_seeds} cells of {self.model.feature_stride} pixels" if num_seeds else ""
            raise ValueError(f"augment.crop_size is {size}; legal: a multiple of {multiple}{cells}")

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Field, whether its value is legal, and what is."""
        for name, values in (("precision", Precision), ("schedule", Schedule), ("batch_norm", BatchNorm)):
            yield name, getattr(self, name) in get_args(values), ", ".join(get_args(values))
        for name in ("steps", "batch_size", "accumulate", "log_every", "save_every", "evaluate_every"):
            yield name, getattr(self, name) >= 1, "1 and above"
        fits = self.batch_size % self.accumulate == 0
        yield "accumulate", fits, f"divisors of batch_size ({self.batch_size})"
        for name in ("warmup_steps", "workers", "cache_gb"):
            yield name, getattr(self, name) >= 0, "0 and above"
        for name in ("learning_rate", "clip_norm"):
            yield name, getattr(self, name) > 0, "above 0"
        for name in ("backbone_factor", "weight_decay", "group_power"):
            yield name, 0 <= getattr(self, name) < math.inf, "0 and above"
        for name in ("warmup_factor", "final_factor", "forced_seeds_until"):
            yield name, 0 <= getattr(self, name) <= 1, "0 to 1"
        yield "seed", 0 <= self.seed < 2**31, "0 to 2147483647"
        yield "ema_decay", 0 <= self.ema_decay < 1, "0 up to, not including, 1"
        ordered = self.decay_at == tuple(sorted(set(self.decay_at)))
        yield "decay_at", ordered, "numbers of steps, each above the one before"
        yield "decay_at", bool(self.decay_at) == (self.schedule == "steps"), "some with schedule steps, else none"

    def to_json(self) -> str:
        """Readable JSON, written beside the checkpoint."""
        return json.dumps(asdict(self), indent=2) + "\n"
