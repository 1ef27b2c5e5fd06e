"""What the losses compare with: masks at the mask stride, the owner of each pixel, the centre heat map, the labels.

T targets of one image, (H, W) the image, (h, w) a map.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import KNetConfig
from training.dataset import Target

IGNORED = -1  # label of pixels that no semantic loss looks at; no class index, however many there are


@dataclass(frozen=True)
class ImageTargets:
    """Targets of one image; what a kind of network has no use for is empty."""

    thing_masks: Tensor  # (T, h, w) soft, at the mask stride
    thing_class: Tensor  # (T,)
    stuff_masks: Tensor  # (U, h, w) soft, one a stuff class that is present
    stuff_index: Tensor  # (U,) which stuff class
    heat: Tensor  # seeded kernels: (h_f, w_f) at the feature stride
    centres: Tensor  # seeded kernels: (h_f, w_f) bool
    own_centre: Tensor  # seeded kernels: (2, h_f, w_f), see `own_centres`
    vote_weight: Tensor  # seeded kernels: (h_f, w_f)
    labels: Tensor  # semantic: (H, W) int64, class indices or IGNORED


def prepare_targets(
    target: Target,
    model: KNetConfig,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> ImageTargets:
    """What a crop shows, in the form that the losses of a network compare with.

    Panoptic: crowds are void. Instance: stuff is left out, so a set annotated with both trains such a network too.
    Semantic: every segment is a region of its class, and so is a crowd; where segments overlap the later one counts.

    Args:
        target: its class indices count along the network's categories (an instance network has the things alone).
        model: the network's config.
        device: where the loss is computed; None: where the target is.
        dtype: of the soft masks.
    """
    masks = target.masks.to(device, non_blocking=True)
    nothing = masks.new_zeros(0, dtype=dtype)
    none = masks.new_zeros(0, dtype=torch.int64)
    if model.kind == "semantic":
        regions = torch.cat((target.crowd_masks.to(masks.device, non_blocking=True), masks))
        values = torch.cat((target.crowd_class, target.class_index)).to(masks.device, non_blocking=True)
        labels = paint(regions, values, fill=IGNORED)
        return ImageTargets(nothing, none, nothing, none, nothing, nothing.bool(), nothing, nothing, labels)

    # Chosen where the class indices are, on the CPU as a rule: choosing by a mask on the GPU would wait for it.
    class_index = target.class_index
    things = (class_index < model.num_things).nonzero()[:, 0].to(masks.device, non_blocking=True)
    in_stuff = (class_index >= model.num_things) & (class_index < model.num_classes)
    stuff = in_stuff.nonzero()[:, 0].to(masks.device, non_blocking=True)
    class_index = class_index.to(masks.device, non_blocking=True)
    thing_masks = soft_masks(masks[things], model.mask_stride, dtype)
    heat, centres, own_centre, vote_weight = nothing, nothing.bool(), nothing, nothing
    if model.first_kernels == "seeded":
        at_features = thing_masks
        if model.mask_upsample > 1:
            at_features = soft_masks(masks[things], model.feature_stride)
        heat, centres = centre_heat(at_features)
        own_centre, vote_weight = own_centres(at_features)
    return ImageTargets(
        thing_masks,
        class_index[things],
        soft_masks(masks[stuff], model.mask_stride, dtype),
        class_index[stuff] - model.num_things,
        heat,
        centres,
        own_centre,
        vote_weight,
        none,
    )


def soft_masks(masks: Tensor, stride: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Masks (T, H, W) bool -> (T, H / stride, W / stride) in 0..1: bilinear, not antialiased, as the paper's code."""
    size = (masks.shape[1] // stride, masks.shape[2] // stride)
    if not len(masks):
        return masks.new_zeros(0, *size, dtype=dtype)
    return F.interpolate(masks[None].to(dtype), size, mode="bilinear", align_corners=False)[0]


def paint(masks: Tensor, values: Tensor, fill: int) -> Tensor:
    """(h, w) int64: the value of the last mask that covers a pixel at all, `fill` where none does.

    Args:
        masks: (T, h, w) bool, or soft: any non-zero pixel counts. At most 32766.
        values: (T,) int64.
    """
    if not len(masks):
        return torch.full(masks.shape[1:], fill, dtype=torch.int64, device=masks.device)
    covered = masks > 0
    order = torch.arange(1, len(masks) + 1, device=masks.device, dtype=torch.int16)[:, None, None]
    last = (covered * order).amax(dim=0).long()
    return torch.cat((values.new_full((1,), fill), values))[last]


def centre_heat(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where the seeds of thing masks (T, h, w) should be.

    Returns:
        heat (h, w) float32: a Gaussian of sigma max(0.6, 0.3 radius) cells around each centre, cut to its mask;
        centres (h, w) bool: the cell of each mask that is nearest to its centroid.
    """
    height, width = masks.shape[1:]
    centres = masks.new_zeros(height, width, dtype=torch.bool)
    inside = masks > 0
    inside = inside[inside.flatten(1).any(dim=1)]
    if not len(inside):
        return masks.new_zeros(height, width, dtype=torch.float32), centres
    y = torch.arange(height, dtype=torch.float32, device=masks.device)
    x = torch.arange(width, dtype=torch.float32, device=masks.device)
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


def own_centres(masks: Tensor) -> tuple[Tensor, Tensor]:
    """What every cell under the thing masks (T, h, w) should vote for.

    Returns:
        own_centre (2, h, w): y and x of the centroid of the mask that covers the cell most, in cells;
        vote_weight (h, w): its share of the cell over area and radius of the mask, so that the weighted distances of
        an object are their mean in radii; 0 where no mask is.
    """
    height, width = masks.shape[1:]
    if not len(masks):
        return masks.new_zeros(2, height, width), masks.new_zeros(height, width)
    y = torch.arange(height, dtype=masks.dtype, device=masks.device)
    x = torch.arange(width, dtype=masks.dtype, device=masks.device)
    area = masks.sum(dim=(1, 2)).clamp(min=1e-3)
    centroid = torch.stack(((masks.sum(dim=2) * y).sum(dim=1), (masks.sum(dim=1) * x).sum(dim=1))) / area
    radius = (area / torch.pi).sqrt().clamp(min=1)
    share, owner = masks.max(dim=0)
    return centroid[:, owner], share / (area * radius)[owner]
