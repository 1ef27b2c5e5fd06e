import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame

from model.backbone import Backbone, make_backbone
from model.config import BackboneConfig

SAME_PADDED = "tf_efficientnet_lite0"  # timm pads it by the size of its input


@pytest.mark.parametrize("levels", [(1, 2, 3, 4), (0, 1, 2, 3, 4)])
def test_each_level_halves_the_one_before(levels):
    backbone = Backbone(BackboneConfig(name="test_efficientnet", levels=levels)).eval()
    maps = backbone(torch.zeros(2, 3, 64, 96))
    assert backbone.strides == [2 ** (level + 1) for level in levels]
    assert [tuple(x.shape) for x in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_fixed_padding_equals_the_dynamic_one_for_even_sizes():
    levels = (0, 1, 2, 3, 4)
    backbone = Backbone(BackboneConfig(name=SAME_PADDED, levels=levels)).eval()
    theirs = timm.create_model(SAME_PADDED, features_only=True, out_indices=levels).eval()
    theirs.load_state_dict(backbone.body.state_dict())
    assert not any(isinstance(module, Conv2dSame) for module in backbone.modules())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for ours, expected in zip(backbone(images), theirs(images), strict=True):
            # The same sums, perhaps in another order.
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_name_gets_similar_ones():
    with pytest.raises(ValueError, match=r"'resnet5000'.*similar: .*resnet50"):
        make_backbone(BackboneConfig(name="resnet5000"))


def test_a_network_of_one_stride_is_refused():
    with pytest.raises(ValueError, match=r"'test_vit' has strides"):
        make_backbone(BackboneConfig(name="test_vit", levels=(1, 2)))
