"""The graph of an instance K-Net: pixels in, the best pairs of kernel and class out (section 3.4).

B batch, N kernels, K classes, T instances, (H, W) the image, s the feature stride.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.inputs import network_inputs
from model.knet import KNet, KNetOutput
from model.panoptic import mask_quality
from model.precision import at_least_float32


class InstanceOutput(NamedTuple):
    """Outputs of the graph, in order.

    Masks leave at the feature stride, where they are smallest. The host enlarges each by the config's `mask_upsample`,
    takes the sigmoid, enlarges to the image and cuts at 0.5 (service/instances.py).
    """

    score: Tensor  # (B, T) float32, descending
    class_index: Tensor  # (B, T) int32
    mask_index: Tensor  # (B, T) int32, row of mask_logits; a mask may come back under several classes
    mask_logits: Tensor  # (B, N, H / s, W / s) float32


class InstanceModel(nn.Module):
    """Normalisation, network and the choice of the best instances."""

    output_names = InstanceOutput._fields

    def __init__(self, network: KNet) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, valid_size: Tensor, pixel_mean: Tensor | None = None, pixel_std: Tensor | None = None
    ) -> InstanceOutput:
        """Arguments as in `model.inputs.network_inputs`."""
        config = self.network.config
        pixels, valid = network_inputs(config, image, valid_size, pixel_mean, pixel_std)
        output = self.network(pixels, valid)
        scores = instance_scores(output, rescore=config.mask_quality)
        score, class_index, mask_index = best_instances(scores, config.max_instances)
        return InstanceOutput(
            score, class_index.to(torch.int32), mask_index.to(torch.int32), output.feature_mask_logits.float()
        )


def instance_scores(output: KNetOutput, *, rescore: bool) -> Tensor:
    """(B, N, K) scores of every kernel as every class: the last stage's, times the mask's quality with `rescore`."""
    scores = at_least_float32(output.class_logits[-1]).sigmoid()
    return scores * mask_quality(output.mask_logits[-1])[:, :, None] if rescore else scores


def best_instances(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of the scores (B, N, K): score, class index and kernel, each (B, T), T up to `count`."""
    _, num_kernels, num_classes = scores.shape
    best, index = scores.flatten(1).topk(min(count, num_kernels * num_classes), dim=1)
    kernel = torch.div(index, num_classes, rounding_mode="floor")
    return best, index - kernel * num_classes, kernel
