"""Parts of the network that mixed precision would make wrong, or slow, in half precision."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.kernel_update import AdaptiveKernelUpdate
from training.config import Precision


def keep_in_fp32(network: nn.Module, precision: Precision, device_type: str) -> None:
    """Run the parts that need it in fp32 under autocast.

    fp16: the adaptive update, because group features, sums over a whole mask, exceed 65504. bf16 on a CPU: depthwise
    convolutions, whose gradients oneDNN computes several times more slowly in bf16; but those of 3x3 with stride 2.
    """
    for module in network.modules():
        is_needed = isinstance(module, AdaptiveKernelUpdate) and precision == "fp16"
        if is_needed or (precision == "bf16" and device_type == "cpu" and _is_slow_in_bf16(module)):
            module.forward = partial(_in_fp32, module, device_type)


def _is_slow_in_bf16(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or not module.groups == module.in_channels > 1:
        return False
    return not (module.kernel_size == (3, 3) and module.stride == (2, 2))


def _in_fp32(module: nn.Module, device_type: str, *inputs: Tensor) -> Any:
    with torch.autocast(device_type, enabled=False):
        return type(module).forward(module, *(x.float() for x in inputs))
