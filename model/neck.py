"""Necks of detection K-Nets: backbone levels -> FPN -> semantic FPN: the two maps that the kernels filter.

B batch, C channels, H and W of the image, s the feature stride.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import KNetConfig, Norm

# Of the paper's code. At finer strides a convolution after the last doubling of each level would cost more than the
# rest of the network.
_PAPER_STRIDE = 8


class ConvNorm(nn.Sequential):
    """Convolution without bias, norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, norm: Norm, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = kernel_size // 2 * dilation
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
            nn.GroupNorm(32, out_channels) if norm == "group" else nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class FPN(nn.Module):
    """Feature pyramid: biased 1x1 laterals, nearest upsampling, biased 3x3 outputs; no norm."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """(B, C_i, H / stride_i, W / stride_i) a level, finest first -> the same with equal channels."""
        maps = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], scale_factor=2.0, mode="nearest")
        return [output(level) for output, level in zip(self.outputs, maps, strict=True)]


class SemanticFPN(nn.Module):
    """Brings every FPN level to the feature stride, sums, and gives two maps (section 3.4).

    At the paper's stride a convolution follows each doubling of a level. At finer strides none follows the last one,
    which is then done once, on the sum of the coarser levels.

    Args:
        strides: of the FPN levels, finest first.
        in_channels: of the FPN.
        channels: C of the maps.
        feature_stride: s.
        norm: of the convolutions.
        sine_encoding: add the position to the coarsest level.
    """

    def __init__(
        self,
        strides: list[int],
        in_channels: int,
        channels: int,
        feature_stride: int,
        norm: Norm,
        sine_encoding: bool,
    ) -> None:
        super().__init__()
        self.sine_encoding = sine_encoding
        num_fine = sum(stride <= feature_stride for stride in strides)
        if not 0 < num_fine < len(strides):
            raise ValueError(f"feature_stride is {feature_stride}; legal for FPN strides {strides}: {strides[:-1]}")
        self.num_direct = len(strides) if feature_stride >= _PAPER_STRIDE else num_fine
        targets = [feature_stride if i < self.num_direct else 2 * feature_stride for i in range(len(strides))]
        self.levels = nn.ModuleList(
            _to_stride(stride, target, in_channels, channels, norm)
            for stride, target in zip(strides, targets, strict=True)
        )
        self.localisation = ConvNorm(channels, channels, 1, norm)
        self.segmentation = ConvNorm(channels, channels, 1, norm)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """FPN levels, finest first -> localisation and segmentation map, each (B, C, H/s, W/s)."""
        *finer, coarsest = maps
        if self.sine_encoding:
            coarsest = coarsest + sine_encoding(coarsest)
        maps = [level(x) for level, x in zip(self.levels, [*finer, coarsest], strict=True)]
        direct, halved = maps[: self.num_direct], maps[self.num_direct :]
        if halved:
            # The last doubling is linear and the same for all of them: it is done once, on their sum.
            direct.insert(0, double(sum(halved[1:], start=halved[0])))
        total = sum(direct[1:], start=direct[0])
        return self.localisation(total), self.segmentation(total)


class DetectionNeck(nn.Module):
    """FPN and semantic FPN: what the detection forms have between backbone and kernel head."""

    def __init__(self, in_channels: list[int], config: KNetConfig) -> None:
        super().__init__()
        self.fpn = FPN(in_channels, config.fpn_channels)
        self.semantic_fpn = SemanticFPN(
            list(config.backbone.strides),
            config.fpn_channels,
            config.channels,
            config.feature_stride,
            config.norm,
            config.sine_encoding,
        )

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Backbone levels, finest first -> localisation and segmentation map, each (B, C, H/s, W/s)."""
        return self.semantic_fpn(self.fpn(levels))  # type: ignore[no-any-return]


def _to_stride(stride: int, target: int, in_channels: int, channels: int, norm: Norm) -> nn.Sequential:
    """One convolution, or one with stride 2 for each halving; and bilinear x2 and a convolution for each doubling."""
    blocks: list[nn.Module] = [ConvNorm(in_channels, channels, 3, norm, 2 if stride < target else 1)]
    doublings = int(math.log2(stride / target))
    blocks += [ConvNorm(channels, channels, 3, norm, 2) for _ in range(-doublings - 1)]
    for _ in range(doublings):
        blocks.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))
        blocks.append(ConvNorm(channels, channels, 3, norm))
    return nn.Sequential(*blocks)


def double(x: Tensor) -> Tensor:
    """Twice the height and width, bilinearly, corners not aligned."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def sine_encoding(like: Tensor) -> Tensor:
    """Sine position encoding of a map (B, C, H, W) -> (1, C, H, W); y in the first half of C, x in the second.

    Positions run from 1 to H, divided by H + 1e-6, times 2 pi; temperature 10000; sine on even and cosine on odd
    channels, interleaved.
    """
    _, channels, height, width = like.shape
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    half = channels // 2
    exponent = torch.arange(half, device=like.device).div(2, rounding_mode="floor") * 2 / half
    frequency = 10000 ** exponent.to(dtype)

    def axis(size: int) -> Tensor:
        position = torch.arange(1, size + 1, device=like.device, dtype=dtype) / (size + 1e-6) * 2 * math.pi
        angle = position[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1).T  # (half, size)

    y = axis(height)[:, :, None].expand(half, height, width)
    x = axis(width)[:, None, :].expand(half, height, width)
    return torch.cat((y, x))[None].to(like.dtype)
