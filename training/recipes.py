"""Recipes: functions that return a complete training configuration."""

from collections.abc import Callable

from model.config import Category, knet_nuclei
from training.augment import AugmentConfig
from training.config import TrainConfig
from training.criterion import LossConfig
from training.matcher import MatcherConfig


def nuclei(categories: tuple[Category, ...]) -> TrainConfig:
    """Cell nuclei in microscopy: many small objects, images of any size, two CPU cores for about an hour.

    Steps, rates and weights are those measured in docs/nuclei.md.
    """
    return TrainConfig(
        model=knet_nuclei(categories),
        loss=LossConfig(
            rank_weight=1.0,
            mask_normaliser="area",
            rank_balanced=True,
            stuff_mask_weight=1.0,
            seg_loss="cross_entropy_dice",
            matcher=MatcherConfig(mask_cost="cross_entropy"),
        ),
        augment=AugmentConfig(scale_jitter=1.5),
        steps=4000,
        batch_size=6,
        learning_rate=1e-3,
        backbone_factor=0.4,
        weight_decay=0.02,
        clip_norm=10.0,
        group_weights={"colour": 1.5},
        precision="bf16",
    )


RECIPES: dict[str, Callable[[tuple[Category, ...]], TrainConfig]] = {"nuclei": nuclei}
