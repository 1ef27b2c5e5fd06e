"""A run whose loss is not finite stops, and says with which images."""

from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from training.engine import all_reduce

_LEAST_SCALE = 2.0**-8  # of fp16 gradients; a run that overflows even there never recovers


def check_finite(fabric: Fabric, step: int, terms: dict[str, Tensor], norm: Tensor, paths: list[Path]) -> None:
    """Look at a step before it changes the weights. The gradients of all processes are the same, their losses not.

    With fp16 a gradient may overflow: its step is left out, and the scale of the gradients halved.

    Args:
        terms: of this process's loss.
        norm: of the gradient.
        paths: images of this process's part of the batch.

    Raises:
        FloatingPointError: with the images, in every process.
    """
    total = torch.stack(list(terms.values())).sum()
    scaler: GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is None:
        # All decide alike, or one would wait for the others below.
        is_finite = bool(all_reduce(fabric, total + norm, "sum").isfinite())
    else:
        # The norm, which all processes share, says nothing here.
        is_finite = bool(all_reduce(fabric, total, "sum").isfinite())
        if is_finite and not bool(norm.isfinite()) and scaler.get_scale() < _LEAST_SCALE:
            is_finite = False
    if is_finite:
        return
    values = {name: float(term) for name, term in terms.items()}
    found: list[Any] = [(values, paths, bool(total.isfinite()))]
    if fabric.world_size > 1:
        gathered: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(gathered, found[0])
        found = gathered
    # Where only the gradient is not finite, any image may be the cause.
    guilty = [entry for entry in found if not entry[2]] or found
    names = ", ".join(str(path) for _, some, _ in guilty for path in some)
    what = "the loss" if not guilty[0][2] else "the gradient"
    raise FloatingPointError(
        f"{what} is not finite at step {step}: {guilty[0][0]}. Images of the batch: {names}. Look at them, and try a "
        "lower learning_rate or precision fp32; the last saved state is from before"
    )
