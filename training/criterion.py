"""The whole training loss: assignment and every term, at the kernel head and at every stage (section 3.3).

B batch, T thing kernels, N = T + stuff kernels, K classes, (h, w) the map at the mask stride.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import KNetConfig
from model.kernels import OUTSIDE
from model.knet import KNetOutput
from model.precision import at_least_float32
from training import losses
from training.dataset import Target
from training.matcher import Match, MatcherConfig, match
from training.targets import centre_heat, paint, soft_masks

Normaliser = Literal["pixels", "area"]
SegLoss = Literal["focal", "cross_entropy_dice"]

# Added to the count that a focal loss is divided by, as in the paper's code.
_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; the defaults are the paper's."""

    class_weight: float = 2.0
    mask_weight: float = 1.0
    dice_weight: float = 4.0
    rank_weight: float = 0.1
    seg_weight: float = 1.0
    heat_weight: float = 1.0  # seeded kernels only
    mask_normaliser: Normaliser = "pixels"  # "area": summed over pixels / (area + 16), for small objects
    rank_balanced: bool = False  # thing and stuff pixels weigh the same, whichever are more; all kernels compete
    stuff_mask_weight: float | None = None  # None: stuff masks are averaged together with the things'
    seg_loss: SegLoss = "focal"
    matcher: MatcherConfig = field(default_factory=MatcherConfig)

    def __post_init__(self) -> None:
        for name, values in (("mask_normaliser", Normaliser), ("seg_loss", SegLoss)):
            if getattr(self, name) not in get_args(values):
                raise ValueError(f"{name} is {getattr(self, name)!r}; legal: {', '.join(get_args(values))}")


@dataclass(frozen=True)
class ImageTargets:
    """Targets of one image at the strides of the losses."""

    thing_masks: Tensor  # (T, h, w) soft
    thing_class: Tensor  # (T,)
    stuff_masks: Tensor  # (U, h, w) soft, one a stuff class that is present
    stuff_index: Tensor  # (U,) which stuff class
    heat: Tensor  # (h_f, w_f) at the feature stride
    centres: Tensor  # (h_f, w_f) bool


def image_targets(target: Target, config: KNetConfig, dtype: torch.dtype = torch.float32) -> ImageTargets:
    """Shrink one image's masks to the strides that the losses work at."""
    things = target.class_index < config.num_things
    thing_masks = soft_masks(target.masks[things], config.mask_stride, dtype)
    if config.first_kernels == "seeded":
        at_features = thing_masks
        if config.mask_upsample > 1:
            at_features = soft_masks(target.masks[things], config.feature_stride)
        heat, centres = centre_heat(at_features)
    else:
        heat, centres = torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    return ImageTargets(
        thing_masks,
        target.class_index[things],
        soft_masks(target.masks[~things], config.mask_stride, dtype),
        target.class_index[~things] - config.num_things,
        heat,
        centres,
    )


class Criterion:
    """Loss of a network's output.

    Args:
        model: the network's config.
        config: weights.
    """

    def __init__(self, model: KNetConfig, config: LossConfig) -> None:
        self.model = model
        self.config = config

    def __call__(self, output: KNetOutput, targets: Sequence[ImageTargets]) -> dict[str, Tensor]:
        """Named weighted terms; the total loss is their sum.

        Stage s is matched by the predictions of stage s - 1, stage 0 by the kernel head's masks, without a class cost.
        """
        mask_logits = [at_least_float32(logits) for logits in output.mask_logits]
        assignments = self.assign(output, targets)
        terms = self._mask_terms("head", mask_logits[0], output.active, assignments[0], targets, is_head=True)
        terms |= self._segmentation_terms(output.seg_logits, assignments[0], targets)
        if output.heat_logits is not None:
            heat = torch.stack([target.heat for target in targets])[:, None]
            terms["head_heat"] = self.config.heat_weight * losses.heat_focal(output.heat_logits.float(), heat)
        for stage, (class_logits, matches) in enumerate(zip(output.class_logits, assignments, strict=True)):
            name = f"s{stage}"
            terms |= self._mask_terms(name, mask_logits[stage + 1], output.active, matches, targets, is_head=False)
            terms[f"{name}_class"] = self._class_term(class_logits, output.active, matches, targets)
        return terms

    def assign(self, output: KNetOutput, targets: Sequence[ImageTargets]) -> list[list[Match]]:
        """For each stage, the pairs of each image, by the predictions before it; the kernel head has stage 0's."""
        return [self._assign_stage(output, targets, stage) for stage in range(len(output.class_logits))]

    @torch.no_grad()
    def class_accuracy(self, output: KNetOutput, targets: Sequence[ImageTargets]) -> float:
        """Share of the objects whose kernel has the right class, by the last stage, 0..1; 1 without objects.

        The highest of the thing columns counts: the others are never trained for a thing's kernel.
        """
        matches = self._assign_stage(output, targets, len(output.class_logits) - 1)
        predicted = output.class_logits[-1][:, :, : self.model.num_things].argmax(dim=2)
        right = [
            predicted[i, pair.kernel] == target.thing_class[pair.target]
            for i, (pair, target) in enumerate(zip(matches, targets, strict=True))
        ]
        each = torch.cat(right)
        return float(each.float().mean()) if len(each) else 1.0

    def _assign_stage(self, output: KNetOutput, targets: Sequence[ImageTargets], stage: int) -> list[Match]:
        classes = output.class_logits[stage - 1] if stage else None
        return self._match(at_least_float32(output.mask_logits[stage]), classes, output.active, targets)

    def _match(
        self, mask_logits: Tensor, class_logits: Tensor | None, active: Tensor | None, targets: Sequence[ImageTargets]
    ) -> list[Match]:
        """Only thing kernels are matched; a stuff kernel belongs to its class."""
        num_things = mask_logits.shape[1] - self.model.num_stuff
        return [
            match(
                mask_logits[i, :num_things].detach(),
                None if class_logits is None else class_logits[i, :num_things, : self.model.num_things].detach(),
                target.thing_masks,
                target.thing_class,
                self.config.matcher,
                None if active is None else active[i, :num_things],
            )
            for i, target in enumerate(targets)
        ]

    def _mask_terms(
        self,
        name: str,
        mask_logits: Tensor,
        active: Tensor | None,
        matches: list[Match],
        targets: Sequence[ImageTargets],
        is_head: bool,
    ) -> dict[str, Tensor]:
        config = self.config
        num_kernels = mask_logits.shape[1]
        num_things = num_kernels - self.model.num_stuff
        kernels = [i * num_kernels + pair.kernel for i, pair in enumerate(matches)]
        stuff_kernels = [i * num_kernels + num_things + t.stuff_index for i, t in enumerate(targets)]
        # One selection for the batch: each selection's gradient is a tensor of the size of all masks.
        selected = mask_logits.flatten(0, 1)[torch.cat(kernels + stuff_kernels)]
        num_matched = sum(map(len, kernels))
        things, stuff = selected[:num_matched], selected[num_matched:]
        thing_targets = torch.cat([t.thing_masks[pair.target] for t, pair in zip(targets, matches, strict=True)])
        stuff_targets = torch.cat([t.stuff_masks for t in targets])
        if config.stuff_mask_weight is None and not is_head:
            things, thing_targets = torch.cat((things, stuff)), torch.cat((thing_targets, stuff_targets))
        by_area = config.mask_normaliser == "area"
        terms = {
            f"{name}_mask": config.mask_weight * _mean(losses.cross_entropy(things, thing_targets, by_area)),
            f"{name}_dice": config.dice_weight * _mean(losses.dice(things, thing_targets)),
        }
        if config.stuff_mask_weight is not None:
            each = losses.cross_entropy(stuff, stuff_targets, by_area) + losses.dice(stuff, stuff_targets)
            terms[f"{name}_stuff"] = config.stuff_mask_weight * _mean(each)
        if config.rank_weight and self.model.num_stuff:
            competing = mask_logits if active is None else torch.where(active[:, :, None, None], mask_logits, OUTSIDE)
            if is_head and not config.rank_balanced:
                competing = competing[:, :num_things]
            terms[f"{name}_rank"] = config.rank_weight * self._rank_term(competing, num_things, matches, targets)
        return terms

    def _rank_term(
        self, mask_logits: Tensor, num_things: int, matches: list[Match], targets: Sequence[ImageTargets]
    ) -> Tensor:
        """Every pixel's owner must win; where masks overlap, the higher kernel owns."""
        with_stuff = mask_logits.shape[1] > num_things
        owners = []
        for pair, target in zip(matches, targets, strict=True):
            masks, kernels = target.thing_masks[pair.target], pair.kernel
            if with_stuff:
                # A stuff mask is soft at its rim; a thing's pixel stays the thing's where things are the point.
                free = (masks.sum(dim=0) == 0) if self.config.rank_balanced else 1
                masks = torch.cat((masks, target.stuff_masks * free))
                kernels = torch.cat((kernels, num_things + target.stuff_index))
            owners.append(paint(masks, kernels, fill=-1))
        owner = torch.stack(owners)
        loss = losses.rank(mask_logits, owner)
        if not self.config.rank_balanced:
            return loss.mean()  # pixels without owner count in the mean, as in the paper's code
        on_thing, on_stuff = (owner >= 0) & (owner < num_things), owner >= num_things
        thing_mean = (loss * on_thing).sum() / on_thing.sum().clamp(min=1)
        return 0.5 * thing_mean + 0.5 * (loss * on_stuff).sum() / on_stuff.sum().clamp(min=1)

    def _class_term(
        self, class_logits: Tensor, active: Tensor | None, matches: list[Match], targets: Sequence[ImageTargets]
    ) -> Tensor:
        """Thing kernels are judged in the thing columns, a stuff kernel in its own column alone."""
        num_stuff, num_things = self.model.num_stuff, self.model.num_things
        first_stuff = class_logits.shape[1] - num_stuff
        logits = at_least_float32(class_logits)
        labels, weights = torch.zeros_like(logits), torch.zeros_like(logits)
        weights[:, :first_stuff, :num_things] = 1
        if active is not None:
            weights = weights * active[:, :, None]
        stuff = torch.arange(num_stuff)
        weights[:, first_stuff + stuff, num_things + stuff] = 1
        for i, (pair, target) in enumerate(zip(matches, targets, strict=True)):
            labels[i, pair.kernel, target.thing_class[pair.target]] = 1
            labels[i, first_stuff + target.stuff_index, num_things + target.stuff_index] = 1
        total = (losses.focal(logits, labels) * weights).sum() / (labels.sum().clamp(min=1) + _EPS)
        return self.config.class_weight * total

    def _segmentation_terms(
        self, seg_logits: Tensor, matches: list[Match], targets: Sequence[ImageTargets]
    ) -> dict[str, Tensor]:
        """All classes of the kernel head's segmentation map: semantic labels with things over stuff."""
        logits = at_least_float32(seg_logits)
        if self.model.mask_upsample > 1:
            factor = float(self.model.mask_upsample)
            logits = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
        num_classes = self.model.num_classes
        labels = []
        for pair, target in zip(matches, targets, strict=True):
            masks = torch.cat((target.stuff_masks, target.thing_masks[pair.target]))
            stuff_class = target.stuff_index + self.model.num_things
            labels.append(paint(masks, torch.cat((stuff_class, target.thing_class[pair.target])), fill=num_classes))
        # Void is its own value and then dropped: it is a negative of every class.
        one_hot = F.one_hot(torch.stack(labels), num_classes + 1)[..., :num_classes]
        one_hot = one_hot.permute(0, 3, 1, 2).to(logits.dtype)
        if self.config.seg_loss == "focal":
            total = losses.focal(logits, one_hot).sum() / (one_hot.sum().clamp(min=1) + _EPS)
            return {"head_seg": self.config.seg_weight * total}
        each = F.binary_cross_entropy_with_logits(logits, one_hot)
        dice = losses.dice(logits.flatten(0, 1), one_hot.flatten(0, 1)).mean()
        return {"head_seg": self.config.seg_weight * (2 * each + dice)}


def _mean(each: Tensor) -> Tensor:
    """Mean over matched kernels; 0 without any, still part of the graph."""
    return each.sum() / max(1, len(each))
