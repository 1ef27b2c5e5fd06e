"""Deformable convolution (v1, https://arxiv.org/abs/1703.06211): a kernel whose taps move by learned offsets.

B batch, C input channels, D output channels, k kernel size, (H, W) input, (h, w) output. Offsets are in input pixels,
(y, x) per tap, taps row by row: the order of torchvision and of mmcv.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d  # type: ignore[import-untyped]

Pair = tuple[int, int]


class DeformableConv2d(nn.Conv2d):
    """A convolution without bias that predicts the offsets of its taps; they start at 0, which is a plain convolution.

    Attributes:
        as_grid_sample: compute `sampled_deform_conv2d`, for engines without the deformable operator.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        self.conv_offset = nn.Conv2d(in_channels, 2 * kernel_size**2, kernel_size, stride, padding, dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(cast(Tensor, self.conv_offset.bias))
        self.as_grid_sample = False

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w)."""
        convolve = sampled_deform_conv2d if self.as_grid_sample else deform_conv2d
        return convolve(
            input,
            self.conv_offset(input),
            self.weight,
            self.bias,  # None, until a batch norm is folded in
            cast(Pair, self.stride),
            cast(Pair, self.padding),
            cast(Pair, self.dilation),
        )


def sampled_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """Equal to torchvision's `deform_conv2d`, of operators that every engine has: a grid sample, a matrix product.

    Args:
        input: (B, C, H, W).
        offset: (B, 2 * k * k, h, w).
        weight: (D, C, k, k).
        bias: (D), or None.

    Returns:
        (B, D, h, w).
    """
    out_channels, _, *kernel_size = weight.shape
    height, width = offset.shape[-2:]
    grid = _sampling_grid(offset, cast(Pair, input.shape[-2:]), cast(Pair, kernel_size), stride, padding, dilation)
    taps = F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    kernels = weight.flatten(1)
    output = kernels @ taps.reshape(-1, kernels.shape[1], height * width)
    if bias is not None:
        output = output + bias[:, None]
    return output.reshape(-1, out_channels, height, width)


def _sampling_grid(
    offset: Tensor, size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """(B, k * k * h, w, 2): (x, y) of every tap as `grid_sample` has it; -1 and 1 are the outer edges of the image.

    The taps lie below each other: one sampling, no copies of the input, and what comes out is (B, C, k * k, h, w) in
    memory, the columns that the kernels multiply.
    """
    height, width = offset.shape[-2:]
    y, x = offset.reshape(-1, *kernel_size, 2, height, width).unbind(3)
    y = y + _positions(height, kernel_size[0], stride[0], padding[0], dilation[0], offset)[:, None, :, None]
    x = x + _positions(width, kernel_size[1], stride[1], padding[1], dilation[1], offset)[:, None, :]
    # Corners that are not aligned: with aligned ones an image one pixel wide divides by zero.
    grid = torch.stack(((2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1), dim=-1)
    return grid.flatten(1, 3)


def _positions(length: int, kernel_size: int, stride: int, padding: int, dilation: int, like: Tensor) -> Tensor:
    """(k, length): the input pixels of the taps without offsets, along one axis."""
    first = torch.arange(length, device=like.device) * stride - padding
    tap = torch.arange(kernel_size, device=like.device) * dilation
    return (tap[:, None] + first).to(like.dtype)
