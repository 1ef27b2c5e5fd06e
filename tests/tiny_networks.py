"""The forms of K-Net, tiny: they run in milliseconds.

Not a test file: conftest.py makes fixtures of them, and training/tiny_run.py, which is also a program, runs this file.
"""

import dataclasses

from model.config import BackboneConfig, KNetConfig


def learned(categories) -> KNetConfig:
    """The paper's panoptic form, with two things first. Mask stride 4."""
    return KNetConfig(
        categories=categories,
        backbone=BackboneConfig(name="test_efficientnet"),
        fpn_channels=16,
        channels=32,
        num_kernels=6,
        num_training_kernels=6,
        num_stages=2,
        num_heads=4,
        ffn_channels=32,
        canvas_sizes=(64, 64),
        output_stride=2,
    )


def seeded(categories) -> KNetConfig:
    """The nuclei form. Mask stride 2."""
    return KNetConfig(
        categories=categories,
        backbone=BackboneConfig(name="test_efficientnet", levels=(0, 1, 2, 3, 4)),
        normalisation="image",
        fpn_channels=16,
        channels=16,
        feature_stride=2,
        mask_upsample=1,
        norm="batch",
        sine_encoding=False,
        first_kernels="seeded",
        num_kernels=12,
        num_training_kernels=8,
        num_stages=2,
        num_heads=2,
        ffn_channels=32,
        fixed_stuff_score=1.0,
        geometry="tile",
        canvas_sizes=(32, 64),
        tile_overlap=16,
        output_stride=2,
        overlap_threshold=0.5,
    )


def instance(categories) -> KNetConfig:
    """The paper's instance form, in the geometry of the official configurations."""
    return dataclasses.replace(
        learned(categories),
        kind="instance",
        categories=categories[:2],
        padding_in_masks=True,
        max_instances=8,
        geometry="shortest_edge",
        canvas_sizes=(64, 128),
        output_stride=8,
    )


def semantic(categories) -> KNetConfig:
    """The paper's semantic form: kernels of two parts on a UPerNet, with classes in any order."""
    return dataclasses.replace(
        learned(categories),
        kind="semantic",
        categories=categories[::-1],
        neck="uper",
        feature_stride=4,
        mask_upsample=1,
        norm="batch",
        dropout=0.1,
        auxiliary=True,
        num_kernels=0,
        num_training_kernels=0,
        update_channels=16,
        output_stride=2,
    )
