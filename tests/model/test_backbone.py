import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame

from model.backbone import Backbone, make_backbone
from model.config import BackboneConfig
from model.deformable import DeformableConv2d

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


def test_a_dilated_backbone_keeps_its_resolution_with_contracted_dilation():
    backbone = make_backbone(BackboneConfig(name="resnet50c", max_stride=8))
    assert backbone.strides == [4, 8, 8, 8]
    stage3, stage4 = backbone.body.layer3, backbone.body.layer4
    dilations = [[block.conv2.dilation[0] for block in stage] for stage in (stage3, stage4)]
    assert dilations == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    assert stage4[0].downsample[0].stride == (1, 1)
    assert all(block.conv2.padding == block.conv2.dilation for block in (*stage3, *stage4))


def test_frozen_levels_get_no_gradient():
    backbone = make_backbone(BackboneConfig(frozen_level=1))
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_deformable_levels_deform_every_3x3_convolution():
    backbone = make_backbone(BackboneConfig(deformable_levels=(2, 4)))
    deformable = {name for name, module in backbone.named_modules() if isinstance(module, DeformableConv2d)}
    assert deformable == {f"body.layer{s}.{i}.conv2" for s, count in ((2, 4), (4, 3)) for i in range(count)}
    strides = [backbone.body.get_submodule(f"layer2.{i}").conv2.stride for i in range(2)]
    assert strides == [(2, 2), (1, 1)]
    # Untrained offsets are 0: it computes what the plain network does.
    plain = make_backbone(BackboneConfig())
    plain.load_state_dict(backbone.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, expected in zip(backbone.eval()(images), plain.eval()(images), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)  # float32


def test_a_backbone_without_bottlenecks_cannot_be_deformed():
    with pytest.raises(ValueError, match="'resnet18' has no bottleneck blocks"):
        make_backbone(BackboneConfig(name="resnet18", deformable_levels=(4,)))
