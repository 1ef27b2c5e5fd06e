"""First kernels taken from the image itself, for many small objects in images of any size.

Our extension of the paper: its learned kernels specialise in places of the training crop and need the same
geometry at test time; kernels seeded at the peaks of a centre heat map do not.

B batch, T thing kernels, C channels, (h, w) the feature map.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import KNetConfig
from model.kernels import Kernels, Place, filter_features
from model.precision import at_least_float32

# A peak below this heat is no seed: its slot is out of use.
MIN_HEAT = 0.05
# At the start every kernel makes a disc of about `seed_radius`: its logit falls from this to 0 on the way to the rim.
FIRST_BIAS = 1.5


class SeededKernels(nn.Module):
    """Centre heat map -> its local maxima -> kernels = features at those places, bound to them; votes of all pixels."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.num_kernels = config.num_kernels
        self.num_training_kernels = config.num_training_kernels
        self.seed_radius = config.seed_radius  # cells from a pixel to its vote, a unit of the convolution
        self.hidden = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(inplace=True))
        self.heat = nn.Conv2d(64, 1, 1)
        nn.init.constant_(cast(Tensor, self.heat.bias), -3.0)  # few pixels are centres
        self.offsets = nn.Conv2d(64, 2, 1)
        nn.init.zeros_(self.offsets.weight)  # at the start every pixel votes for itself
        nn.init.zeros_(cast(Tensor, self.offsets.bias))
        self.kernel = nn.Linear(channels, channels)
        self.falloff_and_bias = nn.Linear(channels, 2)
        nn.init.zeros_(self.falloff_and_bias.weight)
        falloff = FIRST_BIAS / config.seed_radius**2
        self.falloff_and_bias.bias.data = torch.tensor([math.log(falloff), FIRST_BIAS])

    def forward(
        self, localisation: Tensor, features: Tensor, valid: Tensor | None, forced_seeds: Tensor | None
    ) -> tuple[Kernels, Tensor]:
        """Localisation map (B, C, h, w) -> T kernels at its seeds, and the heat logits (B, 1, h, w)."""
        hidden = self.hidden(localisation)
        heat_logits = self.heat(hidden)
        votes = _cells(localisation) + self.seed_radius * at_least_float32(self.offsets(hidden))
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
        place = Place(centre, log_falloff.exp(), bias, votes)
        return Kernels(weights, filter_features(weights, localisation, place, valid), active, place), heat_logits

    def _seeds(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Heat (B, 1, h, w) of at least T cells -> flat index (B, T) of its highest local maxima; which are seeds."""
        peaks = torch.where(heat == F.max_pool2d(heat, 3, 1, 1), heat, 0.0).flatten(1)
        num_kernels = self.num_training_kernels if self.training else self.num_kernels
        value, index = peaks.topk(num_kernels, dim=1)
        return index, value > MIN_HEAT


def _cells(like: Tensor) -> Tensor:
    """(2, h, w) float32: y and x of each cell of a map (B, C, h, w)."""
    height, width = like.shape[-2:]
    y = torch.arange(height, device=like.device, dtype=torch.float32)
    x = torch.arange(width, device=like.device, dtype=torch.float32)
    return torch.stack((y[:, None].expand(height, width), x[None, :].expand(height, width)))
