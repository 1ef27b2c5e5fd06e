"""What must not be computed in half precision: scores, losses and sums over many pixels."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """What is computed inside is not cast to half precision, on the tensor's device."""
    if torch.is_autocast_enabled(like.device.type):
        return torch.autocast(like.device.type, enabled=False)
    return nullcontext()
