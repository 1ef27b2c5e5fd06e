"""Necks of semantic K-Nets: the decode heads whose last convolution the kernels replace (section 3.4).

Each turns the backbone's levels into one feature map. B batch, C channels, (H, W) the coarsest level unless said.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import KNetConfig, Norm
from model.neck import ConvNorm, double

_POOL_SIZES = (1, 2, 3, 6)  # cells a side
_ATROUS_RATES = (12, 24, 36)


class FCNNeck(nn.Module):
    """Two convolutions, and a third over their result beside their input (https://arxiv.org/abs/1411.4038)."""

    def __init__(self, in_channels: list[int], config: KNetConfig) -> None:
        super().__init__()
        channels, norm = config.channels, config.norm
        self.convs = nn.Sequential(ConvNorm(in_channels[-1], channels, 3, norm), ConvNorm(channels, channels, 3, norm))
        self.merge = ConvNorm(in_channels[-1] + channels, channels, 3, norm)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor]:
        """Levels, finest first -> (B, C, H, W)."""
        coarsest = levels[-1]
        return (self.merge(torch.cat((coarsest, self.convs(coarsest)), dim=1)),)


class PyramidPooling(nn.Module):
    """Means over grids of 1, 2, 3 and 6 cells a side, beside the map itself (https://arxiv.org/abs/1612.01105)."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(in_channels, channels, 1, norm) for _ in _POOL_SIZES)
        self.merge = ConvNorm(in_channels + len(_POOL_SIZES) * channels, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W)."""
        pooled = [conv(pool_to(x, size)) for conv, size in zip(self.convs, _POOL_SIZES, strict=True)]
        return self.merge(torch.cat((x, *(_resize_like(p, x) for p in pooled)), dim=1))  # type: ignore[no-any-return]


class PSPNeck(nn.Module):
    """Pyramid pooling of the coarsest level."""

    def __init__(self, in_channels: list[int], config: KNetConfig) -> None:
        super().__init__()
        self.pyramid = PyramidPooling(in_channels[-1], config.channels, config.norm)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor]:
        """Levels, finest first -> (B, C, H, W)."""
        return (self.pyramid(levels[-1]),)


class ASPPNeck(nn.Module):
    """Convolutions of several dilations and the mean of the whole map (https://arxiv.org/abs/1706.05587)."""

    def __init__(self, in_channels: list[int], config: KNetConfig) -> None:
        super().__init__()
        given, channels, norm = in_channels[-1], config.channels, config.norm
        self.image = ConvNorm(given, channels, 1, norm)
        self.convs = nn.ModuleList(
            (
                ConvNorm(given, channels, 1, norm),
                *(ConvNorm(given, channels, 3, norm, dilation=rate) for rate in _ATROUS_RATES),
            )
        )
        self.merge = ConvNorm((1 + len(self.convs)) * channels, channels, 3, norm)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor]:
        """Levels, finest first -> (B, C, H, W)."""
        coarsest = levels[-1]
        image = _resize_like(self.image(pool_to(coarsest, 1)), coarsest)
        return (self.merge(torch.cat((image, *(conv(coarsest) for conv in self.convs)), dim=1)),)


class UPerNeck(nn.Module):
    """Pyramid pooling of the coarsest level, an FPN below it, and all levels together at the finest one
    (https://arxiv.org/abs/1807.10221).
    """

    def __init__(self, in_channels: list[int], config: KNetConfig) -> None:
        super().__init__()
        channels, norm = config.channels, config.norm
        self.pyramid = PyramidPooling(in_channels[-1], channels, norm)
        self.laterals = nn.ModuleList(ConvNorm(given, channels, 1, norm) for given in in_channels[:-1])
        self.outputs = nn.ModuleList(ConvNorm(channels, channels, 3, norm) for _ in in_channels[:-1])
        self.merge = ConvNorm(len(in_channels) * channels, channels, 3, norm)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor]:
        """Levels, finest first -> (B, C, h, w) of the finest level."""
        maps = [lateral(level) for lateral, level in zip(self.laterals, levels[:-1], strict=True)]
        maps.append(self.pyramid(levels[-1]))
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + double(maps[i])
        maps = [*(output(x) for output, x in zip(self.outputs, maps[:-1], strict=True)), maps[-1]]
        for i in range(1, len(maps)):
            maps[i] = F.interpolate(maps[i], scale_factor=2.0**i, mode="bilinear", align_corners=False)
        return (self.merge(torch.cat(maps, dim=1)),)


class AuxiliaryHead(nn.Module):
    """One convolution and a classifier on one level: a second segmentation that only training looks at."""

    def __init__(self, in_channels: int, num_classes: int, norm: Norm, dropout: float, channels: int = 256) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, channels, 3, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, level: Tensor) -> Tensor:
        """(B, C_in, h, w) -> class logits (B, K, h, w)."""
        return self.conv_seg(self.dropout(self.conv(level)))  # type: ignore[no-any-return]


def make_semantic_neck(in_channels: list[int], config: KNetConfig) -> nn.Module:
    """The neck that the config of kind semantic names."""
    necks = {"fcn": FCNNeck, "psp": PSPNeck, "aspp": ASPPNeck, "uper": UPerNeck}
    return necks[config.neck](in_channels, config)


def pool_to(x: Tensor, size: int) -> Tensor:
    """Adaptive average pooling (B, C, H, W) -> (B, C, size, size), as two matrix products.

    nn.AdaptiveAvgPool2d exports only for sides that `size` divides; a product exports for all of them.
    """
    rows, columns = (_pooling(length, size, x) for length in x.shape[-2:])
    return rows @ x @ columns.transpose(0, 1)


def _pooling(length: int, size: int, like: Tensor) -> Tensor:
    """(size, length): cell i is the mean over floor(i length / size) up to ceil((i + 1) length / size)."""
    cell = torch.arange(size, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)[None, :]
    inside = (position >= cell * length // size) & (position < ((cell + 1) * length + size - 1) // size)
    weight = inside.to(like.dtype)
    return weight / weight.sum(dim=1, keepdim=True)


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
