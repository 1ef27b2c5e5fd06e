"""The training loss of semantic kernels: a cross-entropy for each map that they make (section 3.4; the paper's code).

B batch, K classes, (H, W) the image.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from model.knet import KNetOutput
from model.precision import at_least_float32

IGNORED = 255  # label of pixels that no loss looks at


@dataclass(frozen=True, kw_only=True)
class SemanticLossConfig:
    """Weights of the terms; the defaults are the paper's."""

    map_weight: float = 1.0  # of the kernel head's map and of each stage's
    auxiliary_weight: float = 0.4


def semantic_terms(output: KNetOutput, labels: Tensor, config: SemanticLossConfig) -> dict[str, Tensor]:
    """Named weighted terms; the total loss is their sum.

    Args:
        output: of a network of kind semantic.
        labels: (B, H, W) int64, class indices, or `IGNORED`.
    """
    names = ["head", *(f"s{stage}" for stage in range(len(output.mask_logits) - 1))]
    terms = {
        f"{name}_map": config.map_weight * _cross_entropy(logits, labels)
        for name, logits in zip(names, output.mask_logits, strict=True)
    }
    if output.auxiliary_logits is not None:
        terms["auxiliary_map"] = config.auxiliary_weight * _cross_entropy(output.auxiliary_logits, labels)
    return terms


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all pixels of the labels, the ignored ones counted as zeros, as in the paper's code."""
    logits = F.interpolate(at_least_float32(logits), labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").mean()
