"""Kernels, the places some of them hold to, and the masks they make.

B batch, N kernels, C channels, (h, w) the feature map. Positions are in feature cells, (y, x), cell centres at
whole numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.precision import full_precision

# The logit of a pixel outside the image's valid area: it belongs to no mask. Its sigmoid is 0 in every precision,
# and fp16 can hold it.
OUTSIDE = -1e4


@dataclass(frozen=True)
class Place:
    """'Near here': what a kernel says about where its pixels belong (our extension of the paper).

    Every pixel votes for the centre of the object that it is part of, and

        mask logit = kernel . feature + bias - falloff * |vote - centre|^2

    which is the spatial embedding of Neven et al. (https://arxiv.org/abs/1906.11109), or a kernel's product with four
    more channels of the feature map: [y, x, y^2 + x^2, 1] of the votes. It is what tells touching objects apart.
    """

    centre: Tensor  # (B, N, 2) float32
    falloff: Tensor  # (B, N) float32, per squared cell; 0: the kernel holds to no place
    bias: Tensor  # (B, N) float32
    votes: Tensor  # (B, 2, h, w) float32

    def logits(self) -> Tensor:
        """(B, N, h, w) float32: the place's part of the mask logits.

        Differences first: as a product with four channels the squares lose digits, and runtimes disagree on pixels.
        """
        vote_y, vote_x = self.votes[:, None, 0], self.votes[:, None, 1]
        centre_y, centre_x = self.centre[:, :, 0, None, None], self.centre[:, :, 1, None, None]
        squared = (vote_y - centre_y).square() + (vote_x - centre_x).square()
        return self.bias[:, :, None, None] - self.falloff[:, :, None, None] * squared

    def distance(self) -> Tensor:
        """(B, N, N) squared distance between centres, 0 where one of the two holds to no place."""
        y, x = self.centre.unbind(dim=-1)
        placed = (self.falloff > 0).to(y.dtype)
        squared = (y[:, :, None] - y[:, None, :]).square() + (x[:, :, None] - x[:, None, :]).square()
        return squared * placed[:, :, None] * placed[:, None, :]

    def moved_to(self, hard_masks: Tensor, min_area: float = 2.0) -> Tensor:
        """(B, N, 2): the centroids of the masks (B, N, h, w) of 0 and 1; the old centre for an area up to min_area."""
        height, width = hard_masks.shape[-2:]
        y, x = _cells(height, width, self.centre)
        rows, columns = hard_masks.sum(dim=3, dtype=torch.float32), hard_masks.sum(dim=2, dtype=torch.float32)
        area = rows.sum(dim=2)
        centroid = torch.stack(((rows * y).sum(dim=2), (columns * x).sum(dim=2)), dim=2)
        centroid = centroid / area.clamp(min=1.0)[:, :, None]
        return torch.where((area > min_area)[:, :, None], centroid, self.centre)


def _cells(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(height, device=like.device, dtype=like.dtype)
    x = torch.arange(width, device=like.device, dtype=like.dtype)
    return y, x


@dataclass(frozen=True)
class Kernels:
    """The kernels of a batch and the masks that they make: what passes from stage to stage."""

    weights: Tensor  # (B, N, C), things first, then stuff
    mask_logits: Tensor  # (B, N, h, w)
    active: Tensor | None  # (B, N) bool: slots in use; None: all
    place: Place | None  # None: kernels see features alone (the paper)

    @property
    def hard_masks(self) -> Tensor:
        """(B, N, h, w) of 0 and 1: mask probability above 0.5. No gradient passes."""
        return (self.mask_logits.detach() > 0).to(self.weights.dtype)

    def class_shares(self, valid: Tensor | None) -> Tensor:
        """(B, N, h, w): where kernels are classes, which share of each pixel each has. They sum to 1.

        Args:
            valid: (B, 1, h, w) bool; pixels outside belong to none.
        """
        shares = self.mask_logits.softmax(dim=1)
        return shares if valid is None else torch.where(valid, shares, 0.0)


def filter_features(
    weights: Tensor, features: Tensor, place: Place | None = None, valid: Tensor | None = None
) -> Tensor:
    """Mask logits (B, N, h, w): every kernel (B, N, C) as a 1x1 convolution of its image's features (B, C, h, w).

    Args:
        place: adds the distance term.
        valid: (B, 1, h, w) bool; pixels outside get `OUTSIDE`.
    """
    height, width = features.shape[-2:]
    # Plain matrix products, here and below: every engine has them, not every one einsum.
    logits: Tensor = (weights @ features.flatten(2)).unflatten(2, (height, width))  # type: ignore[no-untyped-call]
    if place is not None:
        logits = logits + place.logits()
    return logits if valid is None else torch.where(valid, logits, OUTSIDE)


def assemble_group_features(masks: Tensor, features: Tensor) -> Tensor:
    """Group features (B, N, C): the unnormalised sum of the features inside each mask (section 3.2, eq. 3).

    Args:
        masks: (B, N, h, w), 0..1.
        features: (B, C, h, w).
    """
    masks, features = masks.flatten(2), features.flatten(2).transpose(1, 2)
    if torch.is_autocast_enabled(features.device.type):
        # A sum over thousands of pixels exceeds fp16's range.
        with full_precision(features):
            return masks.float() @ features.float()
    return masks.to(features.dtype) @ features
