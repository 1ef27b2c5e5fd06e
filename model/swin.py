"""Swin Transformer by timm, computing what the port in mmdetection and mmsegmentation computes.

That port differs from the original classification code: maps are padded to whole windows before they are shifted,
windows stay shifted on maps smaller than a window, and each output has a norm of its own. The order of the four
neighbours in patch merging also differs; as it only permutes weights, the importer settles it (export/official.py).
"""

from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn

from model.config import BackboneConfig


class SwinBackbone(nn.Module):
    """A timm Swin cut at the given levels, with a LayerNorm for each output.

    Args:
        config: its `name` is of a timm model of Swin, version 1; level i is stage i, of stride 4 * 2 ** i.

    Raises:
        ValueError: an option that Swin does not have.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        if config.max_stride != 32 or config.frozen_level is not None or config.deformable_levels:
            raise ValueError(f"backbone {config.name!r} cannot be dilated, frozen or made deformable")
        if config.levels[0] < 1:
            raise ValueError(f"backbone.levels of a Swin is {config.levels}; legal: 1 to 4, of strides 4 to 32")
        self.body = timm.create_model(
            config.name,
            pretrained=False,
            features_only=True,
            out_indices=tuple(level - 1 for level in config.levels),  # timm counts them from stride 4
            dynamic_img_size=True,
            always_partition=True,
            drop_path_rate=config.drop_path,
        )
        for module in self.body.modules():
            if isinstance(module, SwinTransformerBlock):
                module.__class__ = _PaddedBlock  # timm's stages take no class of block
        info = cast(Any, self.body.feature_info)
        self.channels: list[int] = info.channels()
        self.strides: list[int] = info.reduction()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> one (B, C_i, H / stride_i, W / stride_i) a level."""
        maps = self.body(images)  # (B, H / stride_i, W / stride_i, C_i)
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True)]


class _PaddedBlock(SwinTransformerBlock):
    """Pads, then shifts; padded tokens take part in the attention of their window."""

    def _attn(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        window, shift = self.window_size[0], self.shift_size[0]
        padded_height = (height + window - 1) // window * window
        padded_width = (width + window - 1) // window * window
        x = F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        windows = window_partition(x, self.window_size).reshape(-1, window * window, channels)
        mask = _shift_mask(padded_height, padded_width, window, shift, x) if shift else None
        windows = self.attn(windows, mask).reshape(-1, window, window, channels)
        x = window_reverse(windows, self.window_size, padded_height, padded_width)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return x[:, :height, :width]


def _shift_mask(height: int, width: int, window: int, shift: int, like: Tensor) -> Tensor:
    """(windows, window ** 2, window ** 2): -100 between tokens that were not neighbours before the shift."""

    def bands(length: int) -> Tensor:
        position = torch.arange(length, device=like.device)
        return (position >= length - window).to(torch.int64) + (position >= length - shift).to(torch.int64)

    group = bands(height)[:, None] * 3 + bands(width)[None, :]
    group = group.reshape(height // window, window, width // window, window).permute(0, 2, 1, 3)
    group = group.reshape(-1, window * window)
    return torch.where(group[:, :, None] == group[:, None, :], 0.0, -100.0).to(like.dtype)
