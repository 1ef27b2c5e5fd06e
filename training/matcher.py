"""Mask-based Hungarian assignment of kernels to objects (section 3.3).

N kernels, T targets, K classes, (h, w) the map at the mask stride.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

MaskCost = Literal["agreement", "cross_entropy"]

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


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
    usable = torch.arange(len(mask_logits)) if active is None else active.nonzero()[:, 0]
    cost = cost_matrix(
        mask_logits[usable], None if class_logits is None else class_logits[usable], target_masks, target_class, config
    )
    # A network that diverges must not end in the solver's error: the loss reports it.
    rows, columns = linear_sum_assignment(cost.nan_to_num(1e4, 1e4, -1e4).cpu().numpy())
    return Match(usable[torch.from_numpy(rows)], torch.from_numpy(columns))


def cost_matrix(
    mask_logits: Tensor, class_logits: Tensor | None, target_masks: Tensor, target_class: Tensor, config: MatcherConfig
) -> Tensor:
    """(N, T) float32 (float64 stays); arguments as in `match`."""
    dtype = torch.float64 if mask_logits.dtype == torch.float64 else torch.float32
    logits, targets = mask_logits.flatten(1).to(dtype), target_masks.flatten(1).to(dtype)
    cost = config.dice_weight * _dice_cost(logits.sigmoid(), targets)
    if config.mask_cost == "agreement":
        cost = cost + config.mask_weight * _agreement_cost(logits.sigmoid(), targets)
    else:
        cost = cost + config.mask_weight * _cross_entropy_cost(logits, targets)
    if class_logits is not None:
        cost = cost + config.class_weight * _class_cost(class_logits.to(dtype))[:, target_class]
    return cost


def _dice_cost(probs: Tensor, targets: Tensor, eps: float = 1e-3) -> Tensor:
    overlap = probs @ targets.T
    size = (probs.square().sum(dim=1) + eps)[:, None] + (targets.square().sum(dim=1) + eps)[None, :]
    return -2 * overlap / size


def _agreement_cost(probs: Tensor, targets: Tensor) -> Tensor:
    return -(probs @ targets.T + (1 - probs) @ (1 - targets).T) / probs.shape[1]


def _cross_entropy_cost(logits: Tensor, targets: Tensor) -> Tensor:
    total = F.softplus(logits).sum(dim=1)[:, None] - logits @ targets.T
    return (total / (targets.sum(dim=1) + 16)).clamp(max=20.0)


def _class_cost(logits: Tensor, eps: float = 1e-12) -> Tensor:
    """(N, K): what calling a kernel this class adds to its focal loss."""
    probs = logits.sigmoid()
    positive = -(probs + eps).log() * FOCAL_ALPHA * (1 - probs) ** FOCAL_GAMMA
    negative = -(1 - probs + eps).log() * (1 - FOCAL_ALPHA) * probs**FOCAL_GAMMA
    return positive - negative
