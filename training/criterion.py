"""The whole training loss of a network: what each prediction is compared with, and every term.

B batch, T thing kernels, N = T + stuff kernels, K classes, (h, w) the map at the mask stride, (H, W) the image.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import KNetConfig
from model.knet import KNetOutput
from model.precision import at_least_float32
from training.loss_config import LossConfig
from training.matcher import Match, cost_matrix, solve
from training.point_sampling import random_points, sample
from training.semantic_criterion import SemanticCriterion
from training.targets import ImageTargets
from training.terms import class_term, heat_term, mask_terms, rank_term, segmentation_term, vote_term


def make_criterion(model: KNetConfig, config: LossConfig) -> "Criterion | SemanticCriterion":
    """The loss of a kind of network. Both forms are called with its output and one `ImageTargets` an image.

    Raises:
        ValueError: points are asked for, and the network has no masks that are matched.
    """
    if model.kind != "semantic":
        return Criterion(model, config)
    if config.points is not None:
        raise ValueError(f"loss.points is {config.points}; legal for kind semantic, which matches no masks: None")
    return SemanticCriterion()


class Criterion:
    """Loss of a panoptic or instance network: assignment, and terms at the kernel head and every stage (section 3.3).

    Terms are sums over objects, kernels or pixels divided by their number in the batch; where several processes train,
    by the mean of this number over them (`across_ranks`).

    Args:
        model: the network's config.
        config: weights.
    """

    def __init__(self, model: KNetConfig, config: LossConfig) -> None:
        self.model = model
        self.config = config

    def __call__(
        self, output: KNetOutput, targets: Sequence[ImageTargets], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Named weighted terms; the total loss is their sum.

        Stage s is matched by the predictions of stage s - 1, stage 0 by the kernel head's masks, without a class cost.

        Args:
            generator: draws the points, where `config.points` asks for them; one in the same state gives the same loss.
        """
        output = _without_unused(output)
        points = None
        if self.config.points is not None:
            device = output.seg_logits.device
            points = random_points(len(targets), self.config.points, device=device, generator=generator)
        assignments = self.assign(output, targets, points)
        terms = self._terms_of_masks("head", output, 0, assignments[0], targets, points, generator)
        terms["head_seg"] = segmentation_term(output.seg_logits, assignments[0], targets, self.config, self.model)
        if output.heat_logits is not None:
            terms["head_heat"] = heat_term(output.heat_logits, targets, self.config)
        if output.votes is not None:
            terms["head_vote"] = vote_term(output.votes, targets, self.config)
        for stage, class_logits in enumerate(output.class_logits):
            matches = assignments[stage]
            terms |= self._terms_of_masks(f"s{stage}", output, stage + 1, matches, targets, points, generator)
            terms[f"s{stage}_class"] = class_term(
                class_logits, output.active, matches, targets, self.config, self.model
            )
        return terms

    @torch.no_grad()
    def assign(
        self, output: KNetOutput, targets: Sequence[ImageTargets], points: Tensor | None = None
    ) -> list[list[Match]]:
        """For each stage, the pairs of each image, by the predictions before it; the kernel head has stage 0's.

        Args:
            points: (B, P, 2) where masks and targets are compared, one set of points an image; None: in all pixels.
        """
        return self._assign(output, targets, range(max(1, len(output.class_logits))), points)

    @torch.no_grad()
    def class_accuracy(self, output: KNetOutput, targets: Sequence[ImageTargets]) -> float:
        """Share of the objects whose kernel has the right class, by the last stage, 0..1; 1 without objects.

        The highest of the thing columns counts: the others are never trained for a thing's kernel. Matched in all
        pixels, so nothing is drawn.
        """
        last = len(output.class_logits) - 1
        (matches,) = self._assign(output, targets, range(last, last + 1), None)
        predicted = output.class_logits[-1][:, :, : self.model.num_things].argmax(dim=2)
        right = [
            predicted[i, pair.kernel] == target.thing_class[pair.target]
            for i, (pair, target) in enumerate(zip(matches, targets, strict=True))
        ]
        each = torch.cat(right)
        return float(each.float().mean()) if len(each) else 1.0

    def _assign(
        self, output: KNetOutput, targets: Sequence[ImageTargets], stages: range, points: Tensor | None
    ) -> list[list[Match]]:
        """Only thing kernels are matched; a stuff kernel belongs to its class."""
        num_things = output.mask_logits[0].shape[1] - self.model.num_stuff
        usable = _usable(output, num_things)
        truth = [target.thing_masks for target in targets]
        if points is not None:
            truth = [sample(masks, at) for masks, at in zip(truth, points, strict=True)]
        costs = []
        for stage in stages:
            for i, target in enumerate(targets):
                masks = output.mask_logits[stage][i, usable[i]]
                if points is not None:
                    masks = sample(at_least_float32(masks), points[i])
                classes = output.class_logits[stage - 1][i, usable[i], : self.model.num_things] if stage else None
                costs.append(cost_matrix(masks, classes, truth[i], target.thing_class, self.config.matcher))
        pairs = [
            Match(kernels[pair.kernel], pair.target)
            for kernels, pair in zip(usable * len(stages), solve(costs), strict=True)
        ]
        batch = len(targets)
        return [pairs[i : i + batch] for i in range(0, len(pairs), batch)]

    def _terms_of_masks(
        self,
        name: str,
        output: KNetOutput,
        index: int,
        matches: list[Match],
        targets: Sequence[ImageTargets],
        points: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        config, is_head = self.config, index == 0
        mask_logits, active = output.mask_logits[index], output.active
        num_stuff = self.model.num_stuff
        num_things = mask_logits.shape[1] - num_stuff
        terms = mask_terms(
            mask_logits, matches, targets, config, num_stuff=num_stuff, is_head=is_head, generator=generator
        )
        if config.rank_weight and num_stuff:
            if is_head and not config.rank_balanced:
                mask_logits, active = mask_logits[:, :num_things], None if active is None else active[:, :num_things]
            terms["rank"] = rank_term(
                mask_logits, active, matches, targets, config, num_things=num_things, points=points
            )
        return {f"{name}_{term}": value for term, value in terms.items()}


def _without_unused(output: KNetOutput) -> KNetOutput:
    """The output without the slots that no image of the batch uses: they cost time and add nothing to any term.

    One of the things' stays in any case.
    """
    if output.active is None:
        return output
    in_use = output.active.any(dim=0)
    in_use[0] = True
    used = in_use.nonzero()[:, 0]
    return dataclasses.replace(
        output,
        mask_logits=tuple(logits.index_select(1, used) for logits in output.mask_logits),
        class_logits=tuple(logits.index_select(1, used) for logits in output.class_logits),
        active=output.active.index_select(1, used),
    )


def _usable(output: KNetOutput, num_things: int) -> list[Tensor]:
    """For each image, the thing kernels that may be matched, by ascending index. One wait for a GPU, not one each."""
    batch, device = output.seg_logits.shape[0], output.seg_logits.device
    if output.active is None:
        return [torch.arange(num_things, device=device)] * batch
    return [row.nonzero()[:, 0].to(device, non_blocking=True) for row in output.active[:, :num_things].cpu()]
