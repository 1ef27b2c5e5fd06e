"""K-Net: Towards Unified Image Segmentation (NeurIPS 2021): panoptic, instance and semantic (section 3.4, figure 2).

B batch, N kernels, K classes, (H, W) the image, (h, w) the feature map.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbone import make_backbone
from model.config import KNetConfig
from model.kernel_head import DetectionKernelHead, SemanticKernelHead
from model.kernel_update import KernelUpdateHead
from model.kernels import OUTSIDE
from model.neck import DetectionNeck
from model.semantic_neck import AuxiliaryHead, make_semantic_neck


@dataclass(frozen=True)
class KNetOutput:
    """Predictions of the kernel head (index 0) and of every stage (1..S)."""

    mask_logits: tuple[Tensor, ...]  # S + 1 of (B, N, H, W) / mask stride
    feature_mask_logits: Tensor  # (B, N, h, w), the last stage's before they are enlarged to the mask stride
    class_logits: tuple[Tensor, ...]  # S of (B, N, K); none for semantic kernels
    seg_logits: Tensor  # (B, K, h, w)
    heat_logits: Tensor | None = None  # (B, 1, h, w), seeded kernels only
    active: Tensor | None = None  # (B, N) bool: slots in use; None: all
    auxiliary_logits: Tensor | None = None  # (B, K, h', w') of a coarser level, in training of semantic kernels only
    votes: Tensor | None = None  # (B, 2, h, w), where each pixel says its object's centre is; seeded kernels only


class KNet(nn.Module):
    """Kernels filter one feature map; each makes one mask; S stages improve them."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config.backbone)
        channels = self.backbone.channels
        self.neck: nn.Module
        self.kernel_head: nn.Module
        self.auxiliary: AuxiliaryHead | None = None
        if config.kind == "semantic":
            self.neck = make_semantic_neck(channels, config)
            self.kernel_head = SemanticKernelHead(config)
            if config.auxiliary:
                self.auxiliary = AuxiliaryHead(channels[-2], config.num_classes, config.norm, config.dropout)
        else:
            self.neck = DetectionNeck(channels, config)
            self.kernel_head = DetectionKernelHead(config)
        self.stages = nn.ModuleList(KernelUpdateHead(config) for _ in range(config.num_stages))

    def forward(self, images: Tensor, valid: Tensor | None = None, forced_seeds: Tensor | None = None) -> KNetOutput:
        """Normalised images (B, 3, H, W) -> masks and classes.

        Args:
            images: height and width multiples of `config.size_multiple`.
            valid: (B, 1, h, w) bool, the content of a padded image; None: all of it.
            forced_seeds: (B, 1, h, w) bool, cells that must become seeds (training).
        """
        levels = self.backbone(images)
        head = self.kernel_head(self.neck(levels), valid, forced_seeds)

        kernels, mask_logits, class_logits = head.kernels, [head.kernels.mask_logits], []
        for stage in self.stages:
            kernels, classes = stage(kernels, head.features, valid)
            mask_logits.append(kernels.mask_logits)
            class_logits.append(classes)

        return KNetOutput(
            tuple(enlarge(logits, self.config.mask_upsample, valid, OUTSIDE) for logits in mask_logits),
            kernels.mask_logits,
            () if self.config.kind == "semantic" else tuple(class_logits),
            head.seg_logits,
            head.heat_logits,
            kernels.active,
            self.auxiliary(levels[-2]) if self.auxiliary is not None and self.training else None,
            None if kernels.place is None else kernels.place.votes,
        )

    def train(self, mode: bool = True) -> Self:
        """With group norm in the heads the backbone's batch norms keep their statistics, as in the paper's code."""
        super().train(mode)
        if self.config.norm == "group":
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
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
