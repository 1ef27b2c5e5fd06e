"""What turns gradients into weights: AdamW over groups of parameters, and the average of the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.knet import KNet
from training.config import TrainConfig


def make_optimiser(network: KNet, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW. In one fused kernel, but with fp16: there the gradients are clipped between scaling and the step."""
    groups = parameter_groups(network, config)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=config.precision != "fp16")


def parameter_groups(network: KNet, config: TrainConfig) -> list[dict[str, Any]]:
    """Backbone and the rest, matrices (with decay) and vectors (without, unless the config says so)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.backbone_factor if name.startswith("backbone.") else 1.0
        decay = config.weight_decay if parameter.ndim > 1 or config.decay_vectors else 0.0
        groups.setdefault((config.learning_rate * factor, decay), []).append(parameter)
    return [
        {"params": parameters, "base_lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
    ]


def set_learning_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set the rate of each group to its own times a factor."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


_Tensors = tuple[Tensor, ...] | list[Tensor]


class Average(AveragedModel):
    """Exponential moving average of weights and buffers, faster at first: the random start is forgotten soon."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        def move(averages: _Tensors, values: _Tensors, num_averaged: Tensor | int) -> None:
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, values, 1 - warm_decay(decay, int(num_averaged)))
            else:  # counters of batch norms
                torch._foreach_copy_(averages, values)

        super().__init__(network, multi_avg_fn=move, use_buffers=True)


def warm_decay(decay: float, num_averaged: int) -> float:
    """Share of the old average that stays."""
    return min(decay, (1 + num_averaged) / (10 + num_averaged))
