"""What the losses compare with: masks at the mask stride, the owner of each pixel, the centre heat map.

T targets of one image, (H, W) the image, (h, w) a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_masks(masks: Tensor, stride: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Masks (T, H, W) bool -> (T, H / stride, W / stride) in 0..1: bilinear, not antialiased, as the paper's code."""
    if not len(masks):
        return torch.zeros(0, masks.shape[1] // stride, masks.shape[2] // stride, dtype=dtype)
    size = (masks.shape[1] // stride, masks.shape[2] // stride)
    return F.interpolate(masks[None].to(dtype), size, mode="bilinear", align_corners=False)[0]


def paint(masks: Tensor, values: Tensor, fill: int) -> Tensor:
    """(h, w) int64: the value of the last mask that covers a pixel at all, `fill` where none does.

    Args:
        masks: (T, h, w) soft; any non-zero pixel counts.
        values: (T,) int64.
    """
    covered = masks > 0
    order = torch.arange(1, len(masks) + 1, device=masks.device)[:, None, None]
    if not len(masks):
        return torch.full(masks.shape[1:], fill, dtype=torch.int64, device=masks.device)
    last = (covered * order).amax(dim=0)
    return torch.cat((values.new_tensor([fill]), values))[last]


def centre_heat(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where the seeds of thing masks (T, h, w) should be.

    Returns:
        heat (h, w): a Gaussian of sigma max(0.6, 0.3 radius) cells around each centre, cut to its mask;
        centres (h, w) bool: the cell of each mask that is nearest to its centroid.
    """
    height, width = masks.shape[1:]
    centres = torch.zeros(height, width, dtype=torch.bool)
    inside = masks > 0
    inside = inside[inside.flatten(1).any(dim=1)]
    if not len(inside):
        return torch.zeros(height, width), centres
    y, x = torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32)
    area = inside.sum(dim=(1, 2)).float()
    centroid_y = (inside.sum(dim=2) * y).sum(dim=1) / area
    centroid_x = (inside.sum(dim=1) * x).sum(dim=1) / area

    def squared_distance(to_y: Tensor, to_x: Tensor) -> Tensor:
        return (y - to_y[:, None]).square()[:, :, None] + (x - to_x[:, None]).square()[:, None, :]

    to_centroid = torch.where(inside, squared_distance(centroid_y, centroid_x), torch.inf)
    nearest = to_centroid.flatten(1).argmin(dim=1)
    centres.view(-1)[nearest] = True
    centre_y, centre_x = nearest // width, nearest % width
    sigma = (0.3 * (area / torch.pi).sqrt()).clamp(min=0.6)
    gaussian = (-squared_distance(centre_y.float(), centre_x.float()) / (2 * sigma.square())[:, None, None]).exp()
    return torch.where(inside, gaussian, 0.0).amax(dim=0), centres
