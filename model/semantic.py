"""The graph of a semantic K-Net: pixels in, the class of each pixel out (section 3.4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.inputs import network_inputs
from model.knet import KNet, enlarge


class SemanticOutput(NamedTuple):
    """Outputs of the graph."""

    class_map: Tensor  # (B, H / s, W / s) int32, the class index of each pixel; s is the output stride


class SemanticModel(nn.Module):
    """Normalisation, network and the choice of the highest class."""

    output_names = SemanticOutput._fields

    def __init__(self, network: KNet) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, valid_size: Tensor, pixel_mean: Tensor | None = None, pixel_std: Tensor | None = None
    ) -> SemanticOutput:
        """Arguments as in `model.inputs.network_inputs`. Pixels outside the content have no meaning."""
        config = self.network.config
        pixels, valid = network_inputs(config, image, valid_size, pixel_mean, pixel_std)
        logits = self.network(pixels, valid).mask_logits[-1]
        logits = enlarge(logits, config.feature_stride // config.output_stride, valid, outside=0.0)
        return SemanticOutput(logits.argmax(dim=1).to(torch.int32))
