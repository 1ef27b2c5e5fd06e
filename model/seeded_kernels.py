"""First kernels taken from the image itself, for many small objects in images of any size.

Our extension of the paper: its learned kernels specialise in places of the training crop and need the same
geometry at test time; kernels seeded at the peaks of a centre heat map do not.

B batch, T thing kernels, C channels, (h, w) the feature map.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import KNetConfig
from model.kernels import Kernels, Place, filter_features

# A peak below this heat is no seed: its slot is out of use.
MIN_HEAT = 0.05


class SeededKernels(nn.Module):
    """Centre heat map -> its local maxima -> kernels = features at those places, bound to them."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.num_kernels = config.num_kernels
        self.num_training_kernels = config.num_training_kernels
        self.heat = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(64, 1, 1))
        nn.init.constant_(self.heat[-1].bias, -3.0)  # type: ignore[arg-type]  # few pixels are centres
        self.kernel = nn.Linear(channels, channels)
        self.falloff_and_bias = nn.Linear(channels, 2)
        nn.init.zeros_(self.falloff_and_bias.weight)
        # At the start every kernel makes a disc of radius sqrt(1.5 / 0.08) = 4 cells.
        self.falloff_and_bias.bias.data = torch.tensor([math.log(0.08), 1.5])

    def forward(
        self, localisation: Tensor, features: Tensor, valid: Tensor | None, forced_seeds: Tensor | None
    ) -> tuple[Kernels, Tensor]:
        """Localisation map (B, C, h, w) -> T kernels at its seeds, and the heat logits (B, 1, h, w)."""
        heat_logits = self.heat(localisation)
        heat = heat_logits.detach().float().sigmoid()
        if valid is not None:
            heat = torch.where(valid, heat, 0.0)
        if forced_seeds is not None:
            heat = torch.where(forced_seeds, 2.0, heat)
        index, active = self._seeds(heat)
        width = localisation.shape[-1]
        y = torch.div(index, width, rounding_mode="floor")
        centre = torch.stack((y, index - y * width), dim=2).float()

        at_seeds = index[:, None].expand(-1, localisation.shape[1], -1)
        weights = self.kernel(localisation.flatten(2).gather(2, at_seeds).transpose(1, 2))
        log_falloff, bias = self.falloff_and_bias(weights).float().unbind(dim=2)
        place = Place(centre, log_falloff.exp(), bias)
        return Kernels(weights, filter_features(weights, localisation, place, valid), active, place), heat_logits

    def _seeds(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Heat (B, 1, h, w) of at least T cells -> flat index (B, T) of its highest local maxima; which are seeds."""
        peaks = torch.where(heat == F.max_pool2d(heat, 3, 1, 1), heat, 0.0).flatten(1)
        num_kernels = self.num_training_kernels if self.training else self.num_kernels
        value, index = peaks.topk(num_kernels, dim=1)
        return index, value > MIN_HEAT
