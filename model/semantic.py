"""The graph of a semantic K-Net: pixels in, the class of each pixel out (section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.inputs import network_inputs
from model.knet import KNet, enlarge
from model.precision import at_least_float32


class SemanticOutput(NamedTuple):
    """Outputs of the graph. s is the output stride."""

    class_map: Tensor  # (B, H / s, W / s) int32, the class index of each pixel


class ConfidentOutput(NamedTuple):
    """The same with how sure the network is."""

    class_map: Tensor
    confidence: Tensor  # (B, H / s, W / s) float32, probability of each pixel's class, 1 / num_classes..1


class SemanticModel(nn.Module):
    """Normalisation, network and the choice of the highest class; with its probability, if `confidence`."""

    def __init__(self, network: KNet, *, confidence: bool = False) -> None:
        super().__init__()
        self.network = network
        self.confidence = confidence

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return ConfidentOutput._fields if self.confidence else SemanticOutput._fields

    def forward(
        self, image: Tensor, valid_size: Tensor, pixel_mean: Tensor | None = None, pixel_std: Tensor | None = None
    ) -> SemanticOutput | ConfidentOutput:
        """Arguments as in `model.inputs.network_inputs`. Pixels outside the content have no meaning."""
        config = self.network.config
        pixels, valid = network_inputs(config, image, valid_size, pixel_mean, pixel_std)
        logits = self.network(pixels, valid).mask_logits[-1]
        logits = enlarge(logits, config.feature_stride // config.output_stride, valid, outside=0.0)
        class_map = logits.argmax(dim=1).to(torch.int32)
        if not self.confidence:
            return SemanticOutput(class_map)
        return ConfidentOutput(class_map, at_least_float32(logits).softmax(dim=1).amax(dim=1))
