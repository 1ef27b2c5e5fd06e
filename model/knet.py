"""K-Net: Towards Unified Image Segmentation (NeurIPS 2021), panoptic form (section 3.4, figure 2).

B batch, N kernels, K classes, (H, W) the image, (h, w) the feature map.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbone import Backbone
from model.config import KNetConfig
from model.kernel_head import KernelHead
from model.kernel_update import KernelUpdateHead
from model.kernels import OUTSIDE
from model.neck import FPN, SemanticFPN


@dataclass(frozen=True)
class KNetOutput:
    """Predictions of the kernel head (index 0) and of every stage (1..S)."""

    mask_logits: tuple[Tensor, ...]  # S + 1 of (B, N, H, W) / mask stride
    class_logits: tuple[Tensor, ...]  # S of (B, N, K)
    seg_logits: Tensor  # (B, K, h, w)
    heat_logits: Tensor | None  # (B, 1, h, w), seeded kernels only
    active: Tensor | None  # (B, N) bool: slots in use; None: all


class KNet(nn.Module):
    """Kernels filter one feature map; each makes one mask; S stages improve them."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.backbone_levels)
        self.fpn = FPN(self.backbone.channels, config.fpn_channels)
        self.semantic_fpn = SemanticFPN(
            self.backbone.strides,
            config.fpn_channels,
            config.channels,
            config.feature_stride,
            config.norm,
            config.sine_encoding,
        )
        self.kernel_head = KernelHead(config)
        self.stages = nn.ModuleList(KernelUpdateHead(config) for _ in range(config.num_stages))

    def forward(self, images: Tensor, valid: Tensor | None = None, forced_seeds: Tensor | None = None) -> KNetOutput:
        """Normalised images (B, 3, H, W) -> masks and classes.

        Args:
            images: height and width multiples of `config.size_multiple`.
            valid: (B, 1, h, w) bool, the content of a padded image; None: all of it.
            forced_seeds: (B, 1, h, w) bool, cells that must become seeds (training).
        """
        levels = self.backbone(images)
        localisation, segmentation = self.semantic_fpn(self.fpn(levels))
        head = self.kernel_head(localisation, segmentation, valid, forced_seeds)

        kernels, mask_logits, class_logits = head.kernels, [head.kernels.mask_logits], []
        for stage in self.stages:
            kernels, classes = stage(kernels, head.features, valid)
            mask_logits.append(kernels.mask_logits)
            class_logits.append(classes)

        return KNetOutput(
            tuple(enlarge(logits, self.config.mask_upsample, valid, OUTSIDE) for logits in mask_logits),
            tuple(class_logits),
            head.seg_logits,
            head.heat_logits,
            kernels.active,
        )

    def train(self, mode: bool = True) -> Self:
        """With group norm in the heads the backbone's batch norms keep their statistics, as in the paper's code."""
        super().train(mode)
        if self.config.norm == "group":
            self.backbone.eval()
        return self


def enlarge(masks: Tensor, factor: int, valid: Tensor | None, outside: float) -> Tensor:
    """Masks (B, N, h, w), logits or probabilities, bilinearly to (B, N, factor h, factor w).

    Args:
        valid: (B, 1, h, w) bool. The cells outside reach no pixel inside, as at an image's own border; None: all valid.
        outside: value of the pixels outside.
    """
    if factor == 1:
        return masks
    scale = float(factor)
    if valid is None:
        return F.interpolate(masks, scale_factor=scale, mode="bilinear", align_corners=False)
    total = F.interpolate(torch.where(valid, masks, 0.0), scale_factor=scale, mode="bilinear", align_corners=False)
    share = valid.to(masks.dtype)
    inside = F.interpolate(share, scale_factor=scale, mode="nearest") > 0
    share = F.interpolate(share, scale_factor=scale, mode="bilinear", align_corners=False)
    return torch.where(inside, total / torch.where(inside, share, 1.0), outside)


def valid_cells(valid_size: Tensor, height: int, width: int, stride: int) -> Tensor:
    """(B, 1, h, w) bool: cells of a map of that stride whose top left pixel lies in the content.

    Args:
        valid_size: (B, 2) integer, height and width of the content in pixels, at the top left.
        height, width: of the map, in cells.
        stride: pixels per cell.
    """
    y = torch.arange(height, device=valid_size.device) * stride
    x = torch.arange(width, device=valid_size.device) * stride
    inside_y = y < valid_size[:, :1]
    inside_x = x < valid_size[:, 1:]
    return (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
