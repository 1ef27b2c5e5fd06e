"""What the training loss is made of."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from training.matcher import MatcherConfig

Normaliser = Literal["pixels", "area"]
SegLoss = Literal["focal", "cross_entropy_dice"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; the defaults are the paper's."""

    class_weight: float = 2.0
    mask_weight: float = 1.0
    dice_weight: float = 4.0
    rank_weight: float = 0.1
    seg_weight: float = 1.0
    heat_weight: float = 1.0  # seeded kernels only
    vote_weight: float = 1.0  # seeded kernels only
    mask_normaliser: Normaliser = "pixels"  # "area": summed over pixels / (area + 16), for small objects
    rank_balanced: bool = False  # thing and stuff pixels weigh the same, whichever are more; all kernels compete
    stuff_mask_weight: float | None = None  # None: stuff masks are averaged together with the things'
    seg_loss: SegLoss = "focal"
    # Masks are matched and judged at this many points instead of all pixels (training/point_sampling.py); None: all.
    # Saves memory where a mask has several times as many pixels; Mask2Former's number is 12544.
    points: int | None = None
    matcher: MatcherConfig = field(default_factory=MatcherConfig)

    def __post_init__(self) -> None:
        for name, values in (("mask_normaliser", Normaliser), ("seg_loss", SegLoss)):
            if getattr(self, name) not in get_args(values):
                raise ValueError(f"{name} is {getattr(self, name)!r}; legal: {', '.join(get_args(values))}")
        for name, value in vars(self).items():
            if name.endswith("_weight") and value is not None and value < 0:
                raise ValueError(f"{name} is {value}; legal: 0 and above")
        if self.points is not None and self.points < 1:
            raise ValueError(f"points is {self.points}; legal: 1 and above, or None for all pixels")
