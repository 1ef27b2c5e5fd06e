import dataclasses

import pytest
import torch
import torch.nn.functional as F

from model.config import BackboneConfig, KNetConfig
from model.semantic_neck import ASPPNeck, FCNNeck, PSPNeck, UPerNeck, make_semantic_neck, pool_to

CHANNELS = [8, 12, 16, 24]
NECKS = {"fcn": FCNNeck, "psp": PSPNeck, "aspp": ASPPNeck, "uper": UPerNeck}


def neck_config(semantic_config, neck: str) -> KNetConfig:
    if neck == "uper":
        return semantic_config
    dilated = BackboneConfig(name="resnet50c", max_stride=8)
    return dataclasses.replace(semantic_config, neck=neck, backbone=dilated, feature_stride=8)


def make_levels(strides, height=64, width=96):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, height // s, width // s, generator=generator, dtype=torch.float64)
        for channels, s in zip(CHANNELS, strides, strict=True)
    ]


@pytest.mark.parametrize("neck", NECKS)
def test_each_neck_gives_one_map_at_the_feature_stride(semantic_config, neck):
    config = neck_config(semantic_config, neck)
    module = make_semantic_neck(CHANNELS, config).double().eval()
    assert isinstance(module, NECKS[neck])
    (features,) = module(make_levels(config.backbone.strides))
    s = config.feature_stride
    assert features.shape == (2, config.channels, 64 // s, 96 // s)
    assert (features >= 0).all()


@pytest.mark.parametrize("neck", NECKS)
def test_every_level_that_a_neck_uses_reaches_its_map(semantic_config, neck):
    config = neck_config(semantic_config, neck)
    levels = [level.requires_grad_() for level in make_levels(config.backbone.strides)]
    (features,) = make_semantic_neck(CHANNELS, config).double().eval()(levels)
    features.sum().backward()
    used = [level.grad is not None and bool(level.grad.abs().sum() > 0) for level in levels]
    assert used == ([True] * 4 if neck == "uper" else [False, False, False, True])


@pytest.mark.parametrize("size", [1, 2, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 13), (25, 38), (4, 5), (1, 2)])
def test_pooling_by_products_is_adaptive_average_pooling(size, height, width):
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(pool_to(x, size), F.adaptive_avg_pool2d(x, size))
