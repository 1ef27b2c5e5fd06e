"""Recipes: functions from a data set to a complete training configuration.

The paper's are in training/paper_recipes.py, those for one evening and few images here. A field that one data set needs
otherwise is changed with `--set`; what helps every data set of a kind belongs into the recipe.
"""

import math
from dataclasses import dataclass, replace
from statistics import median_high
from typing import Any

from model.config import BackboneConfig, Category, Kind, KNetConfig, knet_nuclei
from training.augment import AugmentConfig
from training.config import TrainConfig
from training.data.index import DataIndex
from training.loss_config import LossConfig
from training.matcher import MatcherConfig


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a recipe looks at of the training images."""

    kind: Kind  # what the annotation is made for
    categories: tuple[Category, ...]  # things first
    num_images: int
    image_size: tuple[int, int]  # median height and width
    groups: tuple[str, ...] = ()  # names of the kinds of images

    @classmethod
    def of(cls, index: DataIndex) -> "DataFacts":
        """Those of a split."""
        sides = [(record.height, record.width) for record in index.records]
        height, width = (median_high(side) for side in zip(*sides, strict=True))
        return cls(
            kind=index.kind,
            categories=index.categories,
            num_images=len(sides),
            image_size=(height, width),
            groups=tuple(sorted({record.group for record in index.records})),
        )

    @property
    def things(self) -> tuple[Category, ...]:
        """The categories of an instance network."""
        return tuple(category for category in self.categories if category.is_thing)

    def can_train(self, kind: Kind) -> bool:
        """Objects and regions also say what the objects are, and of which class each pixel is."""
        return (kind == "semantic" or bool(self.things)) and self.kind in (kind, "panoptic")

    def epochs(self, number: int, batch_size: int) -> int:
        """Steps of so many passes over the images."""
        return math.ceil(number * self.num_images / batch_size)


# Of a network whose kernels are seeds, which follow an image's own objects.
SEEDED_LOSS = LossConfig(
    rank_weight=1.0,
    mask_normaliser="area",
    rank_balanced=True,
    stuff_mask_weight=1.0,
    seg_loss="cross_entropy_dice",
    matcher=MatcherConfig(mask_cost="cross_entropy"),
)
# Photographs: nothing is upside down or inverted, light and colour vary.
_PHOTOGRAPHS = AugmentConfig(
    placement="fit",
    fit_scale=(0.5, 2.0),
    pad_probability=0.0,
    turns=False,
    invert_probability=0.0,
    stain=0.0,
    hue=0.05,
    gain=0.3,
    noise_probability=0.1,
    shuffle_probability=0.0,
    gray_probability=0.05,
)


def nuclei(facts: DataFacts) -> TrainConfig:
    """Cell nuclei and other small round objects in images of any size: 80 minutes on one CPU core.

    Steps, rates and weights are those measured in docs/results.md.
    """
    config = _small(
        knet_nuclei(facts.categories),
        loss=SEEDED_LOSS,
        augment=AugmentConfig(scale_jitter=1.5, min_area=16),
        clip_norm=10.0,
    )
    has_colour = any(group.endswith("colour") for group in facts.groups)
    return replace(config, steps=6500, evaluate_every=2500, group_weights={"colour": 1.5} if has_colour else {})


def small_panoptic(facts: DataFacts) -> TrainConfig:
    """Things and stuff in tens to thousands of photographs: a small network with ImageNet weights."""
    side = _side(facts, most=448)
    return _small(
        _lite(
            categories=facts.categories,
            fpn_channels=96,
            channels=128,
            sine_encoding=False,
            first_kernels="seeded",
            seed_radius=12.0,
            num_stages=2,
            ffn_channels=256,
            merge_at="cells",
            canvas_sizes=(side, side),
            output_stride=2,
            overlap_threshold=0.5,
        ),
        # Most of many classes are in no image: the focal loss does not let their pixels outweigh those of the others.
        loss=replace(SEEDED_LOSS, seg_loss="focal", stuff_mask_weight=None),
        augment=replace(_PHOTOGRAPHS, crop_size=side, copy_paste_probability=0.2),
        clip_norm=10.0,
    )


def small_instance(facts: DataFacts) -> TrainConfig:
    """Objects in tens to thousands of photographs: a small network with ImageNet weights and 50 kernels."""
    side = _side(facts, most=448)
    return _small(
        _lite(
            kind="instance",
            categories=facts.things,
            fpn_channels=96,
            channels=128,
            num_kernels=50,
            num_training_kernels=50,
            ffn_channels=512,
            padding_in_masks=True,
            max_instances=50,
            canvas_sizes=(side, side),
            output_stride=4,
        ),
        loss=LossConfig(),
        augment=replace(_PHOTOGRAPHS, crop_size=side, copy_paste_probability=0.3),
    )


def small_semantic(facts: DataFacts) -> TrainConfig:
    """The class of each pixel, from tens to thousands of photographs: small enough for an edge device."""
    # Crops are of the scale that is served, times 0.5 to 2.
    shorter, longer = sorted(_served_size(facts, most=1024))
    side = min(320, math.ceil(shorter / 32) * 32)
    scale = longer / side
    return _small(
        _lite(
            kind="semantic",
            categories=facts.categories,
            neck="uper",
            channels=64,
            dropout=0.1,
            auxiliary=True,
            num_kernels=0,
            num_training_kernels=0,
            num_stages=2,
            ffn_channels=256,
            canvas_sizes=(shorter, longer),
            output_stride=1,
        ),
        loss=LossConfig(),
        augment=replace(_PHOTOGRAPHS, crop_size=side, fit_scale=(0.5 * scale, 2 * scale)),
        clip_norm=10.0,
    )


def _lite(**fields: Any) -> KNetConfig:
    """What the networks for few images share: a backbone of 3.4 M parameters, masks at stride 4."""
    return KNetConfig(
        backbone=BackboneConfig(name="tf_efficientnet_lite0"),
        feature_stride=4,
        mask_upsample=1,
        norm="batch",
        num_heads=4,
        geometry="shortest_edge",
        **fields,
    )


def _small(model: KNetConfig, *, loss: LossConfig, augment: AugmentConfig, clip_norm: float = 1.0) -> TrainConfig:
    """What the recipes for few images share: a budget of steps, whatever their number, and averaged weights."""
    return TrainConfig(
        model=model,
        loss=loss,
        augment=augment,
        steps=4000,
        batch_size=6,
        learning_rate=1e-3,
        backbone_factor=0.4,
        weight_decay=0.02,
        clip_norm=clip_norm,
        precision="bf16",
        evaluate_every=1000,
    )


def _served_size(facts: DataFacts, most: int) -> tuple[int, int]:
    """Height and width that images are scaled to: their own while the longer is within the limit."""
    height, width = facts.image_size
    scale = min(1.0, most / max(height, width))
    return max(64, round(height * scale)), max(64, round(width * scale))


def _side(facts: DataFacts, most: int) -> int:
    """Longer side that images are scaled to: their own up to a limit, a multiple of the coarsest stride."""
    return min(most, max(128, math.ceil(max(facts.image_size) / 32) * 32))
