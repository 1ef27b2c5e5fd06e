"""The kernel heads: first kernels and first masks (sections 3.2 and 3.4).

B batch, T thing kernels, N = T + stuff kernels, C channels, K classes, (h, w) the feature map.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.config import KNetConfig
from model.kernels import OUTSIDE, Kernels, Place, assemble_group_features, filter_features
from model.neck import ConvNorm
from model.seeded_kernels import SeededKernels


@dataclass(frozen=True)
class KernelHeadOutput:
    """What the kernel head hands to the stages and to the losses."""

    kernels: Kernels  # things, then stuff
    features: Tensor  # (B, C, h, w), the map that the stages' kernels filter
    seg_logits: Tensor  # (B, K, h, w), all classes; detection: the thing rows serve the segmentation loss alone
    heat_logits: Tensor | None  # (B, 1, h, w), centre heat map of seeded kernels


class LearnedKernels(nn.Module):
    """The paper's first kernels: T vectors, the same for every image, plus their group features."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_kernels, config.channels))
        nn.init.normal_(self.weight, std=0.01)

    def forward(
        self, localisation: Tensor, features: Tensor, valid: Tensor | None, forced_seeds: Tensor | None
    ) -> tuple[Kernels, None]:
        """Both maps (B, C, h, w) -> T thing kernels. There are no seeds to force."""
        weights = self.weight.expand(localisation.shape[0], -1, -1)
        kernels = Kernels(weights, filter_features(weights, localisation, valid=valid), None, None)
        group_features = assemble_group_features(kernels.hard_masks, features)
        return Kernels(weights + group_features, kernels.mask_logits, None, None), None


class DetectionKernelHead(nn.Module):
    """Instance kernels on the localisation map, semantic kernels on the segmentation map."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.num_things = config.num_things
        self.num_stuff = config.num_stuff
        self.localisation = ConvNorm(config.channels, config.channels, 1, config.norm)
        self.segmentation = ConvNorm(config.channels, config.channels, 1, config.norm)
        self.conv_seg = nn.Conv2d(config.channels, config.num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.conv_seg.bias), -4.6)  # every class starts at a probability of 0.01
        self.things = SeededKernels(config) if config.first_kernels == "seeded" else LearnedKernels(config)

    def forward(
        self, maps: tuple[Tensor, Tensor], valid: Tensor | None = None, forced_seeds: Tensor | None = None
    ) -> KernelHeadOutput:
        """Both maps of the semantic FPN (B, C, h, w) -> first kernels, first masks and the feature map.

        Args:
            maps: localisation and segmentation map.
            valid: (B, 1, h, w) bool, the pixels of the image's content.
            forced_seeds: (B, 1, h, w) bool, cells that must become seeds (training of seeded kernels).
        """
        localisation, segmentation = self.localisation(maps[0]), self.segmentation(maps[1])
        features = localisation + segmentation
        seg_logits = self.conv_seg(segmentation)
        things, heat_logits = self.things(localisation, features, valid, forced_seeds)
        return KernelHeadOutput(self._with_stuff(things, seg_logits, valid), features, seg_logits, heat_logits)

    def _with_stuff(self, things: Kernels, seg_logits: Tensor, valid: Tensor | None) -> Kernels:
        """The semantic kernels are the stuff rows of `conv_seg`, without their bias."""
        stuff_masks = seg_logits[:, self.num_things :]
        if valid is not None:
            stuff_masks = torch.where(valid, stuff_masks, OUTSIDE)
        batch = seg_logits.shape[0]
        stuff = self.conv_seg.weight[self.num_things :, :, 0, 0].expand(batch, -1, -1)
        active, place = things.active, things.place
        if active is not None:
            active = torch.cat((active, active.new_ones(batch, self.num_stuff)), dim=1)
        if place is not None:
            zeros = place.bias.new_zeros(batch, self.num_stuff)
            place = Place(
                torch.cat((place.centre, zeros[:, :, None].expand(-1, -1, 2)), dim=1),
                torch.cat((place.falloff, zeros), dim=1),
                torch.cat((place.bias, zeros), dim=1),
                place.votes,
            )
        return Kernels(
            torch.cat((things.weights, stuff.to(things.weights.dtype)), dim=1),
            torch.cat((things.mask_logits, stuff_masks.to(things.mask_logits.dtype)), dim=1),
            active,
            place,
        )


class SemanticKernelHead(nn.Module):
    """One kernel a class: the rows of the last convolution of a semantic segmentation network (section 3.4)."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(config.dropout)
        self.conv_seg = nn.Conv2d(config.channels, config.num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(
        self, maps: tuple[Tensor], valid: Tensor | None = None, forced_seeds: Tensor | None = None
    ) -> KernelHeadOutput:
        """The neck's map (B, C, h, w) -> kernels, first masks, and the same map. There are no seeds to force.

        Dropout and the convolution's bias reach the first masks only.
        """
        (features,) = maps
        seg_logits = self.conv_seg(self.dropout(features))
        weights = self.conv_seg.weight[:, :, 0, 0].expand(features.shape[0], -1, -1)
        mask_logits = seg_logits if valid is None else torch.where(valid, seg_logits, OUTSIDE)
        return KernelHeadOutput(Kernels(weights, mask_logits, None, None), features, seg_logits, None)
