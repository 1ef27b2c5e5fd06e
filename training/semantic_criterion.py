"""The training loss of semantic kernels: a cross-entropy for each map that they make (section 3.4; the paper's code).

B batch, K classes, (H, W) the image.
"""

import torch.nn.functional as F
from torch import Tensor

from model.knet import KNetOutput
from model.precision import at_least_float32

IGNORED = 255  # label of pixels that no loss looks at


AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's map; all others have 1


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
    logits = F.interpolate(at_least_float32(logits), labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").mean()
