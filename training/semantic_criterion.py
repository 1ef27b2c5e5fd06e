"""The training loss of semantic kernels: a cross-entropy for each map that they make (section 3.4; the paper's code).

B batch, K classes, (H, W) the image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.knet import KNetOutput
from model.precision import at_least_float32
from training.targets import IGNORED, ImageTargets

AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's map; all others have 1


class SemanticCriterion:
    """Loss of a semantic network.

    Its terms are means over all pixels, void ones included, as in the paper's code. Their number is the same on every
    rank, so nothing has to be reduced over the ranks.
    """

    def __call__(
        self, output: KNetOutput, targets: Sequence[ImageTargets], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Named weighted terms; the total loss is their sum. Nothing is drawn from the generator."""
        return semantic_terms(output, torch.stack([target.labels for target in targets]))

    @torch.no_grad()
    def class_accuracy(self, output: KNetOutput, targets: Sequence[ImageTargets]) -> float:
        """Share of the labelled pixels with the right class, by the last stage, 0..1; 1 without labelled pixels."""
        labels = torch.stack([target.labels for target in targets])
        predicted = _enlarged(output.mask_logits[-1], labels).argmax(dim=1)
        right = (predicted == labels)[labels != IGNORED]
        return float(right.float().mean()) if len(right) else 1.0


def semantic_terms(output: KNetOutput, labels: Tensor) -> dict[str, Tensor]:
    """Named weighted terms; the total loss is their sum.

    Args:
        output: of a network of kind semantic.
        labels: (B, H, W) int64, class indices, or `IGNORED`.
    """
    names = ["head", *(f"s{stage}" for stage in range(len(output.mask_logits) - 1))]
    terms = {
        f"{name}_map": _cross_entropy(logits, labels) for name, logits in zip(names, output.mask_logits, strict=True)
    }
    if output.auxiliary_logits is not None:
        terms["auxiliary_map"] = AUXILIARY_WEIGHT * _cross_entropy(output.auxiliary_logits, labels)
    return terms


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all pixels of the labels, the ignored ones counted as zeros, as in the paper's code."""
    return F.cross_entropy(_enlarged(logits, labels), labels, ignore_index=IGNORED, reduction="none").mean()


def _enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(at_least_float32(logits), labels.shape[1:], mode="bilinear", align_corners=False)
