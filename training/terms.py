"""The terms of the loss of matched kernels, put together from `losses` for a batch (section 3.3).

B batch, N kernels, the things' first, then one a stuff class; K classes, (h, w) the map at the mask stride.
Every sum over objects is divided by `across_ranks`: all processes must come here equally often.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.config import KNetConfig
from model.kernels import OUTSIDE
from model.precision import at_least_float32
from training import losses
from training.across_ranks import across_ranks
from training.loss_config import LossConfig
from training.matcher import Match
from training.point_sampling import pixels_of, sample, uncertain_points
from training.targets import ImageTargets, paint

# Added to the count that a focal loss is divided by, as in the paper's code.
_EPS = torch.finfo(torch.float32).eps
_VOTE_EPS = 1e-4  # squared cells: the gradient of a distance of 0 is 0


def mask_terms(
    mask_logits: Tensor,
    matches: Sequence[Match],
    targets: Sequence[ImageTargets],
    config: LossConfig,
    *,
    num_stuff: int,
    is_head: bool,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Binary cross-entropy and dice of the masks (B, N, h, w) that have a target.

    Args:
        is_head: the kernel head's masks, of which the paper judges the things' alone.
        generator: draws the points, where masks are judged in points.
    """
    with_stuff = config.stuff_mask_weight is not None or not is_head
    num_kernels = mask_logits.shape[1]
    kernels = [i * num_kernels + pair.kernel for i, pair in enumerate(matches)]
    num_matched = sum(map(len, kernels))
    truth = [t.thing_masks[pair.target] for t, pair in zip(targets, matches, strict=True)]
    if with_stuff:
        kernels += [(i + 1) * num_kernels - num_stuff + t.stuff_index for i, t in enumerate(targets)]
        truth += [t.stuff_masks for t in targets]
    # One selection for the batch: each selection's gradient is a tensor of the size of all masks.
    masks, masks_truth = at_least_float32(mask_logits.flatten(0, 1)[torch.cat(kernels)]), torch.cat(truth)
    if config.points is not None:
        points = uncertain_points(masks, config.points, generator)
        masks, masks_truth = sample(masks, points), sample(masks_truth, points)
    cross_entropy = losses.cross_entropy(masks, masks_truth, by_area=config.mask_normaliser == "area")
    dice = losses.dice(masks, masks_truth)
    things = slice(None) if config.stuff_mask_weight is None else slice(num_matched)
    terms = {
        "mask": config.mask_weight * _mean(cross_entropy[things]),
        "dice": config.dice_weight * _mean(dice[things]),
    }
    if config.stuff_mask_weight is not None:
        terms["stuff"] = config.stuff_mask_weight * _mean((cross_entropy + dice)[num_matched:])
    return terms


def rank_term(
    mask_logits: Tensor,
    active: Tensor | None,
    matches: Sequence[Match],
    targets: Sequence[ImageTargets],
    config: LossConfig,
    *,
    num_things: int,
    points: Tensor | None,
) -> Tensor:
    """Every pixel's owner must win; where masks overlap, the higher kernel owns.

    Args:
        mask_logits: (B, N, h, w) of the kernels that compete; with N = `num_things` stuff does not.
        active: (B, N) bool, those in use; None: all.
        points: (B, P, 2); the pixels they fall into stand for all. None: all pixels.
    """
    owner = torch.stack(
        [
            _owners(pair, target, config.rank_balanced, num_things if mask_logits.shape[1] > num_things else None)
            for pair, target in zip(matches, targets, strict=True)
        ]
    )
    if points is not None:
        pixels = pixels_of(points, *mask_logits.shape[-2:])
        owner = owner.flatten(1).gather(1, pixels)
        mask_logits = mask_logits.flatten(2).gather(2, pixels[:, None].expand(-1, mask_logits.shape[1], -1))
    if active is not None:
        mask_logits = torch.where(active.view(*active.shape, *[1] * (owner.ndim - 1)), mask_logits, OUTSIDE)
    loss = losses.rank(at_least_float32(mask_logits), owner)
    if not config.rank_balanced:
        return config.rank_weight * loss.mean()  # pixels without owner count in the mean, as in the paper's code
    on_thing, on_stuff = (owner >= 0) & (owner < num_things), owner >= num_things
    thing_mean = (loss * on_thing).sum() / across_ranks(on_thing.sum())
    stuff_mean = (loss * on_stuff).sum() / across_ranks(on_stuff.sum())
    return config.rank_weight * 0.5 * (thing_mean + stuff_mean)


def _owners(pair: Match, target: ImageTargets, balanced: bool, first_stuff: int | None) -> Tensor:
    """(h, w) the kernel that owns each pixel, -1 where none does; with `first_stuff` None only things own."""
    masks, kernels = target.thing_masks[pair.target], pair.kernel
    if first_stuff is not None:
        stuff_masks = target.stuff_masks
        if balanced:
            # A stuff mask is soft at its rim; a thing's pixel stays the thing's where things are the point.
            stuff_masks = stuff_masks * (masks.sum(dim=0) == 0)
        masks = torch.cat((masks, stuff_masks))
        kernels = torch.cat((kernels, first_stuff + target.stuff_index))
    return paint(masks, kernels, fill=-1)


def class_term(
    class_logits: Tensor,
    active: Tensor | None,
    matches: Sequence[Match],
    targets: Sequence[ImageTargets],
    config: LossConfig,
    model: KNetConfig,
) -> Tensor:
    """Focal loss of the class logits (B, N, K).

    Thing kernels are judged in the thing columns, a stuff kernel in its own column alone.
    """
    num_stuff, num_things = model.num_stuff, model.num_things
    first_stuff = class_logits.shape[1] - num_stuff
    logits = at_least_float32(class_logits)
    labels, weights = torch.zeros_like(logits), torch.zeros_like(logits)
    weights[:, :first_stuff, :num_things] = 1
    if active is not None:
        weights = weights * active[:, :, None]
    stuff = torch.arange(num_stuff, device=logits.device)
    weights[:, first_stuff + stuff, num_things + stuff] = 1
    for i, (pair, target) in enumerate(zip(matches, targets, strict=True)):
        labels[i, pair.kernel, target.thing_class[pair.target]] = 1
        labels[i, first_stuff + target.stuff_index, num_things + target.stuff_index] = 1
    total = (losses.focal(logits, labels) * weights).sum() / (across_ranks(labels.sum()) + _EPS)
    return config.class_weight * total


def segmentation_term(
    seg_logits: Tensor,
    matches: Sequence[Match],
    targets: Sequence[ImageTargets],
    config: LossConfig,
    model: KNetConfig,
) -> Tensor:
    """Loss of the kernel head's map of all classes (B, K, h_f, w_f): semantic labels with things over stuff.

    Void is a negative of every class.
    """
    num_classes = model.num_classes
    painted = []
    for pair, target in zip(matches, targets, strict=True):
        masks = torch.cat((target.stuff_masks, target.thing_masks[pair.target]))
        stuff_class = target.stuff_index + model.num_things
        painted.append(paint(masks, torch.cat((stuff_class, target.thing_class[pair.target])), fill=num_classes))
    labels = torch.stack(painted)
    if config.seg_loss == "focal":
        num_labelled = across_ranks((labels < num_classes).sum())
        # Of 133 classes each map is large, and four of them would be kept; what they are made from is small.
        total = checkpoint(
            _focal_of_map, seg_logits, labels, model.mask_upsample, use_reentrant=False, preserve_rng_state=False
        )
        return config.seg_weight * total / (num_labelled + _EPS)
    logits = _at_mask_stride(seg_logits, model.mask_upsample)
    classes = torch.arange(num_classes, device=labels.device)
    one_hot = (labels[:, None] == classes[:, None, None]).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, one_hot)
    dice = losses.dice(logits.flatten(0, 1), one_hot.flatten(0, 1)).mean()
    return config.seg_weight * (2 * each + dice)


def _focal_of_map(seg_logits: Tensor, labels: Tensor, factor: int) -> Tensor:
    return losses.focal_sum(_at_mask_stride(seg_logits, factor), labels)


def _at_mask_stride(seg_logits: Tensor, factor: int) -> Tensor:
    logits = at_least_float32(seg_logits)
    if factor == 1:
        return logits
    return F.interpolate(logits, scale_factor=float(factor), mode="bilinear", align_corners=False)


def heat_term(heat_logits: Tensor, targets: Sequence[ImageTargets], config: LossConfig) -> Tensor:
    """Focal loss of the centre heat map (B, 1, h_f, w_f) over the number of centres."""
    heat = torch.stack([target.heat for target in targets])[:, None]
    num_centres = across_ranks((heat == 1).sum())
    return config.heat_weight * losses.heat_focal(at_least_float32(heat_logits), heat) / num_centres


def vote_term(votes: Tensor, targets: Sequence[ImageTargets], config: LossConfig) -> Tensor:
    """Distance of the votes (B, 2, h_f, w_f) of an object's pixels from its centre, in radii, mean over the objects."""
    own_centre = torch.stack([target.own_centre for target in targets])
    weight = torch.stack([target.vote_weight for target in targets])
    squared = (at_least_float32(votes) - own_centre).square().sum(dim=1)
    num_objects = across_ranks(votes.new_full((), sum(len(target.thing_masks) for target in targets)))
    return config.vote_weight * ((squared + _VOTE_EPS).sqrt() * weight).sum() / num_objects


def _mean(each: Tensor) -> Tensor:
    """Mean over the kernels of all ranks; 0 without any, still part of the graph."""
    return each.sum() / across_ranks(each.new_full((), len(each)))
