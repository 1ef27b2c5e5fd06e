"""Masks looked at in some points instead of all pixels (PointRend, section 3; Mask2Former, section 3.3).

Wherever it is used a point takes the place of a pixel: sums and means over pixels become sums and means over points.

M masks, P points, (h, w) the map. Points are (x, y) in 0..1 of the map, the corners of its outermost pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Of this many times as many random points ...
_OVERSAMPLE = 3
# ... the most uncertain make this share of the points; the rest are random.
_UNCERTAIN_SHARE = 0.75


def random_points(*shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(*shape, 2) points, uniform over the map.

    Args:
        device: where the points are wanted.
        generator: of any device; the points are drawn on its own. None: the process's.
    """
    drawn_on = device if generator is None else generator.device
    return torch.rand(*shape, 2, device=drawn_on, generator=generator).to(device, non_blocking=True)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (M, h, w) at points (P, 2) common to all or (M, P, 2) of each -> (M, P), bilinear, in the maps' type.

    A point nearer to the border than the outermost pixel centres has the value there.
    """
    grid = (2 * points - 1).to(maps.dtype)
    if not len(maps):
        return maps.flatten(1).new_zeros(0, points.shape[-2])
    if points.ndim == 2:
        values = F.grid_sample(maps[None], grid[None, :, None], padding_mode="border", align_corners=False)
        return values[0, :, :, 0]
    values = F.grid_sample(maps[:, None], grid[:, :, None], padding_mode="border", align_corners=False)
    return values[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, num_points: int, generator: torch.Generator | None) -> Tensor:
    """(M, P, 2): for each mask (M, h, w) points mostly where its logit is near 0, and some anywhere."""
    num_masks = len(mask_logits)
    num_uncertain = int(_UNCERTAIN_SHARE * num_points)
    candidates = random_points(num_masks, _OVERSAMPLE * num_points, device=mask_logits.device, generator=generator)
    nearest_to_zero = sample(mask_logits, candidates).abs().topk(num_uncertain, dim=1, largest=False).indices
    chosen = candidates.gather(1, nearest_to_zero[:, :, None].expand(-1, -1, 2))
    rest = random_points(num_masks, num_points - num_uncertain, device=mask_logits.device, generator=generator)
    return torch.cat((chosen, rest), dim=1)


def pixels_of(points: Tensor, height: int, width: int) -> Tensor:
    """Points (..., 2) -> flat index (...) of the pixel of a map (height, width) that each falls into."""
    x = (points[..., 0] * width).long().clamp(max=width - 1)
    y = (points[..., 1] * height).long().clamp(max=height - 1)
    return y * width + x
