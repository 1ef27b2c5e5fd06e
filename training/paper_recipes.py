"""The recipes of the paper and its code: K-Net on COCO and ADE20K (sections 4.1 and 4.2).

ResNet-50 needs a file of ImageNet weights: `--backbone-weights FILE`, with timm's or torchvision's names.
"""

from dataclasses import replace

from model.config import KNetConfig
from model.official import R50, R50_V1C, ade20k_semantic, coco
from training.augment import UNCHANGED
from training.config import TrainConfig
from training.recipes import DataFacts

_MIRRORED = replace(UNCHANGED, placement="fit", flip_probability=0.5)
_COCO_SIDE = 1088  # crops are square: a COCO image of 4:3 that fits has a shorter side of 816, the paper's 800
_ADE20K_SIDE = 512


def panoptic_r50_1x(facts: DataFacts) -> TrainConfig:
    """The paper's panoptic K-Net, ResNet-50, 12 epochs; made for COCO and several GPUs."""
    return _coco(facts, replace(coco("panoptic", R50), categories=facts.categories), epochs=12)


def panoptic_r50_3x(facts: DataFacts) -> TrainConfig:
    """The same for 36 epochs, at several scales."""
    return _coco(facts, replace(coco("panoptic", R50), categories=facts.categories), epochs=36)


def instance_r50_1x(facts: DataFacts) -> TrainConfig:
    """The paper's instance K-Net, ResNet-50, 12 epochs; made for COCO and several GPUs."""
    return _coco(facts, replace(coco("instance", R50), categories=facts.things), epochs=12)


def instance_r50_3x(facts: DataFacts) -> TrainConfig:
    """The same for 36 epochs, at several scales."""
    return _coco(facts, replace(coco("instance", R50), categories=facts.things), epochs=36)


def semantic_r50_80k(facts: DataFacts) -> TrainConfig:
    """The paper's semantic K-Net on UPerNet, ResNet-50, 80,000 steps; made for ADE20K and several GPUs."""
    model = replace(ade20k_semantic("uper", R50_V1C, channels=256), categories=facts.categories)
    # Crops are of the scale that is served, times 0.5 to 2; this and the colours are close to mmsegmentation's.
    (shorter, longer), (shortest, longest) = sorted(facts.image_size), model.canvas_sizes
    scale = min(shortest / shorter, longest / longer) * longer / _ADE20K_SIDE
    colours = replace(_MIRRORED, gain=0.4, shift=0.5, hue=0.05, saturation=0.4)
    return TrainConfig(
        model=model,
        augment=replace(colours, crop_size=_ADE20K_SIDE, fit_scale=(0.5 * scale, 2 * scale)),
        steps=80_000,
        batch_size=16,
        learning_rate=1e-4,
        backbone_factor=1.0,
        weight_decay=0.0005,
        decay_vectors=True,
        warmup_steps=1000,
        warmup_factor=0.001,
        schedule="steps",
        decay_at=(60_000, 72_000),
        ema_decay=0.0,
        group_power=1.0,
        workers=4,
        evaluate_every=8000,
    )


def _coco(facts: DataFacts, model: KNetConfig, *, epochs: int) -> TrainConfig:
    """Schedule 1x or 3x: the rate falls to a tenth at two thirds (3x: three quarters), and again at eleven twelfths."""
    batch_size = 16
    decays = (8, 11) if epochs == 12 else (27, 33)
    steps = facts.epochs(epochs, batch_size)
    return TrainConfig(
        model=model,
        augment=replace(_MIRRORED, crop_size=_COCO_SIDE, fit_scale=(1.0, 1.0) if epochs == 12 else (0.8, 1.0)),
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-4,
        backbone_factor=0.25,
        weight_decay=0.05,
        decay_vectors=True,
        warmup_steps=1000,
        warmup_factor=0.001,
        schedule="steps",
        decay_at=tuple(facts.epochs(epoch, batch_size) for epoch in decays),
        clip_norm=1.0,
        ema_decay=0.0,
        group_power=1.0,
        workers=4,
        save_every=1000,
        evaluate_every=max(1, facts.epochs(1, batch_size)),
    )
