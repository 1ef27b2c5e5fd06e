import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from model.deformable import DeformableConv2d, sampled_deform_conv2d

FORMULATIONS = [deform_conv2d, sampled_deform_conv2d]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_state_has_the_official_names():
    state = DeformableConv2d(4, 6, 3).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "weight": (6, 4, 3, 3),
        "conv_offset.weight": (18, 4, 3, 3),
        "conv_offset.bias": (18,),
    }


@pytest.mark.parametrize("as_grid_sample", [False, True])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 2), (1, 0, 1)])
def test_without_offsets_it_is_a_plain_convolution(stride, padding, dilation, as_grid_sample, generator):
    conv = DeformableConv2d(4, 6, 3, stride, padding, dilation).double()
    conv.as_grid_sample = as_grid_sample
    images = random(2, 4, 15, 12, generator=generator)
    plain = F.conv2d(images, conv.weight, None, stride, padding, dilation)
    torch.testing.assert_close(conv(images), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("convolve", FORMULATIONS)
@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -3), (-1, 4), (20, 0)])
def test_whole_pixel_offsets_shift_the_image_and_bring_zeros_in(convolve, down, right, generator):
    images, weight = random(2, 4, 9, 11, generator=generator), random(6, 4, 3, 3, generator=generator)
    offset = torch.tensor([down, right], dtype=torch.float64).repeat(9)[None, :, None, None].expand(2, 18, 9, 11)
    wide = F.pad(images, (30, 30, 30, 30))
    shifted = wide[:, :, 29 + down : 40 + down, 29 + right : 42 + right]
    found = convolve(images, offset, weight, None, (1, 1), (1, 1), (1, 1))
    torch.testing.assert_close(found, F.conv2d(shifted, weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("convolve", FORMULATIONS)
def test_offsets_are_y_x_of_each_tap_row_by_row(convolve):
    images = torch.arange(35, dtype=torch.float64).reshape(1, 1, 5, 7)
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, 1, 2] = 1.0
    offset = torch.zeros(1, 18, 3, 5, dtype=torch.float64)
    offset[:, 2 * (1 * 3 + 2)] = 1.0  # y of the tap in row 1, column 2
    found = convolve(images, offset, weight, None, (1, 1), (0, 0), (1, 1))
    torch.testing.assert_close(found, images[:, :, 2:5, 2:7])


@pytest.mark.parametrize("size", [(15, 12), (1, 7), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_formulations_and_their_gradients_agree_far_outside_of_the_image(size, stride, dilation, generator):
    images = random(2, 4, *size, generator=generator)
    weight, bias = random(6, 4, 3, 3, generator=generator), random(6, generator=generator)
    height, width = F.conv2d(images, weight, None, stride, dilation, dilation).shape[-2:]
    offset = 8 * random(2, 18, height, width, generator=generator)
    inputs = [tensor.requires_grad_() for tensor in (images, offset, weight, bias)]
    geometry = ((stride, stride), (dilation, dilation), (dilation, dilation))
    expected, found = (convolve(*inputs, *geometry) for convolve in FORMULATIONS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = random(*expected.shape, generator=generator)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_both_formulations_of_a_layer_agree_with_a_bias_that_was_folded_in(generator):
    conv = DeformableConv2d(4, 6, 3, 2, 1).double()
    torch.nn.init.normal_(conv.conv_offset.weight, generator=generator)
    conv.bias = torch.nn.Parameter(random(6, generator=generator))
    images = random(2, 4, 15, 12, generator=generator)
    expected = conv(images)
    conv.as_grid_sample = True
    torch.testing.assert_close(conv(images), expected, rtol=0, atol=1e-12)
    unbiased = deform_conv2d(images, conv.conv_offset(images), conv.weight, None, 2, 1)
    torch.testing.assert_close(expected - unbiased, conv.bias[:, None, None].expand_as(expected))


def test_offsets_are_learned():
    conv = DeformableConv2d(4, 6, 3, 1, 1)
    conv(torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert conv.conv_offset.weight.grad.abs().sum() > 0
    assert conv.conv_offset.bias.grad.abs().sum() > 0
