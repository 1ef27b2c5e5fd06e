"""Everything that decides a training run."""

import json
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from model.config import KNetConfig
from training.augment import AugmentConfig
from training.criterion import LossConfig

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete run; recipes are functions that return one."""

    model: KNetConfig
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    pretrained: bool = True  # ImageNet weights in the backbone
    steps: int = 5000
    batch_size: int = 6
    learning_rate: float = 1e-4
    backbone_factor: float = 0.25  # of the learning rate
    weight_decay: float = 0.05  # of matrices; vectors have none
    warmup_steps: int = 100
    final_factor: float = 0.02  # of the learning rate, at the end of the cosine
    clip_norm: float = 1.0  # of the gradient
    ema_decay: float = 0.999
    forced_seeds_until: float = 0.15  # share of the run in which true centres are made seeds, ever more rarely
    group_power: float = 0.5  # a kind of image is drawn by (its count) ** this
    group_weights: dict[str, float] = field(default_factory=dict)  # times this, by the end of the kind's name
    precision: Precision = "fp32"
    seed: int = 0
    save_every: int = 200  # steps
    evaluate_every: int = 2500  # steps

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}; legal: {', '.join(get_args(Precision))}")
        for name in ("steps", "batch_size", "save_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; legal: 1 and above")
        size, multiple = self.augment.crop_size, self.model.size_multiple
        if size % multiple or (size // self.model.feature_stride) ** 2 < self.model.num_training_kernels:
            raise ValueError(
                f"augment.crop_size is {size}; legal: a multiple of {multiple} "
                f"with at least {self.model.num_training_kernels} cells of {self.model.feature_stride} pixels"
            )
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; legal: above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; legal: 0 up to, not including, 1")

    def to_json(self) -> str:
        """Readable JSON, written beside the checkpoint."""
        return json.dumps(asdict(self), indent=2) + "\n"
