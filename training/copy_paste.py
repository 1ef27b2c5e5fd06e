"""Simple copy-paste (Ghiasi et al. 2021): objects of one crop are laid over another.

Legend: C 1 (gray) or 3, L layers, T segments, h, w content of a crop.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Donor:
    """An image whose objects are pasted."""

    image: Tensor  # uint8 (3, H, W)
    is_gray: bool
    layers: Tensor  # int32 (L, H, W)
    is_pastable: Tensor  # bool (T,), of segment i + 1: objects, but no crowds
    first_id: int  # added to the ids of pasted segments, so that they differ from those of the other image


def paste(
    content: Tensor, layers: Tensor, donor_content: Tensor, donor_layers: Tensor, donor: Donor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Lay about half of the objects of `donor_content` (C, h', w') over `content` (C, h, w).

    Segments of `layers` (L, h, w) lose the pixels that are covered, and pasted ones are in the first layer. Both lie
    at the top left; what sticks out of `content` is cut off.
    """
    height = min(content.shape[1], donor_content.shape[1])
    width = min(content.shape[2], donor_content.shape[2])
    is_chosen = torch.zeros(len(donor.is_pastable) + 1, dtype=torch.bool)
    is_chosen[1:] = donor.is_pastable & torch.from_numpy(rng.random(len(donor.is_pastable)) < 0.5)
    pasted = torch.zeros(height, width, dtype=torch.int32)
    for layer in donor_layers[:, :height, :width]:
        pasted = torch.where(is_chosen[layer.long()], layer + donor.first_id, pasted)
    covered = pasted > 0
    if not covered.any():
        return content, layers
    channels = max(len(content), len(donor_content))
    content, layers = content.expand(channels, -1, -1).clone(), layers.clone()
    corner = content[:, :height, :width]
    corner.copy_(torch.where(covered, donor_content[:, :height, :width], corner))
    layers[:, :height, :width].masked_fill_(covered, 0)
    layers[0, :height, :width] += pasted
    return content, layers
