import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.neck import FPN, SemanticFPN, sine_encoding

STRIDES = [2, 4, 8, 16, 32]


def make_maps(strides, channels=8, size=64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, channels, size // s, size // s, generator=generator, dtype=torch.float64) for s in strides]


def make_semantic_fpn(feature_stride, strides=STRIDES, sine=False):
    torch.manual_seed(0)
    return SemanticFPN(strides, 8, 32, feature_stride, "group", sine).double()


def test_sine_encoding_holds_y_in_its_first_half_and_x_in_its_second():
    encoding = sine_encoding(torch.zeros(3, 16, 5, 7))
    assert encoding.shape == (1, 16, 5, 7)
    y, x = encoding.chunk(2, dim=1)
    assert (y == y[..., :1]).all()
    assert (x == x[..., :1, :]).all()
    sines, cosines = encoding[:, 0::2], encoding[:, 1::2]
    torch.testing.assert_close(sines**2 + cosines**2, torch.ones_like(sines))


def test_sine_encoding_ends_each_axis_at_a_full_turn():
    encoding = sine_encoding(torch.zeros(1, 16, 5, 7, dtype=torch.float64))
    # 2 pi H / (H + 1e-6): within 1e-5 of a turn.
    torch.testing.assert_close(encoding[0, 0, -1], torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(encoding[0, 8, :, -1], torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-5)


def test_fpn_adds_coarser_levels_to_finer_ones():
    torch.manual_seed(0)
    fpn = FPN([8, 8], 4).double()
    fine, coarse = make_maps([4, 8])
    outputs = fpn([fine, coarse])
    top = fpn.laterals[1](coarse)
    repeated = top.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(outputs[0], fpn.outputs[0](fpn.laterals[0](fine) + repeated))
    torch.testing.assert_close(outputs[1], fpn.outputs[1](top))


@pytest.mark.parametrize("feature_stride", [2, 4, 8])
def test_the_doubling_done_once_equals_a_doubling_of_each_level(feature_stride):
    neck, maps = make_semantic_fpn(feature_stride), make_maps(STRIDES)
    total = 0
    for level, x in zip(neck.levels, maps, strict=True):
        y = level(x)
        size = (64 // feature_stride, 64 // feature_stride)
        total = total + F.interpolate(y, size, mode="bilinear", align_corners=False)
    localisation, segmentation = neck(maps)
    assert localisation.shape == (2, 32, *size)
    torch.testing.assert_close(localisation, neck.localisation(total))
    torch.testing.assert_close(segmentation, neck.segmentation(total))


@pytest.mark.parametrize(
    ("feature_stride", "convolutions", "doublings"),
    [
        (8, [1, 1, 2, 3], [0, 0, 1, 2]),  # the paper's: a convolution after each doubling
        (4, [1, 1, 2, 3], [0, 0, 1, 2]),  # its last doubling is done on the sum
    ],
)
def test_convolutions_of_each_level(feature_stride, convolutions, doublings):
    neck = make_semantic_fpn(feature_stride, STRIDES[1:])
    count = [sum(isinstance(m, nn.Conv2d) for m in level.modules()) for level in neck.levels]
    double = [sum(isinstance(m, nn.Upsample) for m in level.modules()) for level in neck.levels]
    assert (count, double) == (convolutions, doublings)


def test_levels_finer_than_the_feature_stride_are_halved_by_convolutions():
    neck = make_semantic_fpn(8)
    strides = [m.stride for m in neck.levels[0].modules() if isinstance(m, nn.Conv2d)]
    assert strides == [(2, 2), (2, 2)]


def test_the_encoding_is_added_to_the_coarsest_level_alone():
    maps = make_maps(STRIDES)
    plain, encoded = make_semantic_fpn(4), make_semantic_fpn(4, sine=True)
    moved = [*maps[:-1], maps[-1] - sine_encoding(maps[-1])]
    for expected, ours in zip(plain(maps), encoded(moved), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("feature_stride", [1, 32])
def test_a_feature_stride_without_a_coarser_or_a_finer_level_is_refused(feature_stride):
    with pytest.raises(ValueError, match=f"feature_stride is {feature_stride}; legal"):
        make_semantic_fpn(feature_stride)
