"""What must not be computed in half precision: scores, losses and sums over many pixels."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()
