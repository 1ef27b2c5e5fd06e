"""Mask-based Hungarian assignment of kernels to objects (section 3.3).

N kernels, T targets, K classes, (h, w) the map at the mask stride.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from model.precision import at_least_float32
from training.losses import FOCAL_ALPHA, FOCAL_GAMMA, softplus

MaskCost = Literal["agreement", "cross_entropy"]


@dataclass(frozen=True, kw_only=True)
class MatcherConfig:
    """Weights of the costs; the defaults are the paper's (appendix)."""

    class_weight: float = 2.0
    mask_weight: float = 1.0
    dice_weight: float = 4.0
    mask_cost: MaskCost = "agreement"  # "cross_entropy": summed over pixels / (area + 16), for small objects

    def __post_init__(self) -> None:
        if self.mask_cost not in get_args(MaskCost):
            raise ValueError(f"mask_cost is {self.mask_cost!r}; legal: {', '.join(get_args(MaskCost))}")
        for name, value in vars(self).items():
            if name.endswith("_weight") and value < 0:
                raise ValueError(f"{name} is {value}; legal: 0 and above")


@dataclass(frozen=True)
class Match:
    """Pairs of one image, by ascending kernel."""

    kernel: Tensor  # (P,) int64
    target: Tensor  # (P,) int64


@torch.no_grad()
def match(
    mask_logits: Tensor,
    class_logits: Tensor | None,
    target_masks: Tensor,
    target_class: Tensor,
    config: MatcherConfig,
    active: Tensor | None = None,
) -> Match:
    """The pairs of kernels and objects that cost least in all; each kernel and each object at most once.

    Args:
        mask_logits: (N, h, w) of the thing kernels.
        class_logits: (N, K), or None: no class cost (before the first stage has predicted classes).
        target_masks: (T, h, w) soft, 0..1.
        target_class: (T,) class index.
        active: (N,) bool, kernels that may be matched; None: all.
    """
    usable = slice(None) if active is None else active.nonzero()[:, 0]
    cost = cost_matrix(
        mask_logits[usable], None if class_logits is None else class_logits[usable], target_masks, target_class, config
    )
    (pairs,) = solve([cost])
    return pairs if isinstance(usable, slice) else Match(usable[pairs.kernel], pairs.target)


def solve(costs: Sequence[Tensor]) -> list[Match]:
    """The cheapest pairs of rows and columns of each matrix (N, T); T and N may differ between matrices.

    The solver runs on the CPU. All matrices go there together and all pairs come back together, so that a GPU is
    waited for once, not once for each.
    """
    # A network that diverges must not end in the solver's error: the loss reports it.
    flat = torch.cat([cost.flatten() for cost in costs]).nan_to_num(1e4, 1e4, -1e4).cpu()
    pairs: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for entries, cost in zip(torch.split(flat, [cost.numel() for cost in costs]), costs, strict=True):
        pairs += linear_sum_assignment(entries.view(cost.shape).numpy())
    indices = torch.split(torch.from_numpy(np.concatenate(pairs)).to(costs[0].device), [len(each) for each in pairs])
    return [Match(kernel, target) for kernel, target in zip(indices[::2], indices[1::2], strict=True)]


def cost_matrix(
    mask_logits: Tensor, class_logits: Tensor | None, target_masks: Tensor, target_class: Tensor, config: MatcherConfig
) -> Tensor:
    """(N, T) float32 (float64 stays), under autocast too; arguments as in `match`.

    Masks and targets may also be given at P points common to both, (N, P) and (T, P).
    """
    logits, targets = at_least_float32(mask_logits).flatten(1), target_masks.flatten(1)
    with torch.autocast(logits.device.type, enabled=False):
        targets = targets.to(logits.dtype)
        probs = logits.sigmoid()
        cost = config.dice_weight * _dice_cost(probs, targets)
        if config.mask_cost == "agreement":
            cost = cost + config.mask_weight * _agreement_cost(probs, targets)
        else:
            cost = cost + config.mask_weight * _cross_entropy_cost(logits, targets)
        if class_logits is not None:
            cost = cost + config.class_weight * _class_cost(class_logits.to(logits.dtype))[:, target_class]
    return cost


def _dice_cost(probs: Tensor, targets: Tensor, eps: float = 1e-3) -> Tensor:
    overlap = probs @ targets.T
    size = (probs.square().sum(dim=1) + eps)[:, None] + (targets.square().sum(dim=1) + eps)[None, :]
    return -2 * overlap / size


def _agreement_cost(probs: Tensor, targets: Tensor) -> Tensor:
    return -(probs @ targets.T + (1 - probs) @ (1 - targets).T) / probs.shape[1]


def _cross_entropy_cost(logits: Tensor, targets: Tensor) -> Tensor:
    total = softplus(logits).sum(dim=1)[:, None] - logits @ targets.T
    return (total / (targets.sum(dim=1) + 16)).clamp(max=20.0)


def _class_cost(logits: Tensor, eps: float = 1e-12) -> Tensor:
    """(N, K): what calling a kernel this class adds to its focal loss."""
    probs = logits.sigmoid()
    positive = -(probs + eps).log() * FOCAL_ALPHA * (1 - probs) ** FOCAL_GAMMA
    negative = -(1 - probs + eps).log() * (1 - FOCAL_ALPHA) * probs**FOCAL_GAMMA
    return positive - negative
