"""What makes training on CPUs faster and changes no result that matters (measured in docs/nuclei.md)."""

import ctypes
from functools import partial

import torch
from torch import Tensor, nn

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def tune_cpu() -> None:
    """Treat denormal numbers as 0, and keep freed memory.

    The tails of sigmoid and softmax are full of denormals, which are slow. Memory that is given back and taken again
    is fresh: every page of it costs a fault, which in virtual machines takes half of a step.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # not glibc
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 256 * 2**20)


def keep_depthwise_in_fp32(network: nn.Module) -> None:
    """Run depthwise convolutions in fp32 under autocast: in bf16 oneDNN's gradients of them are several times slower.

    Those of 3x3 with stride 2 are fast in bf16 and stay.
    """
    for module in network.modules():
        is_fast = isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.stride == (2, 2)
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and not is_fast:
            module.forward = partial(_in_fp32, module)  # type: ignore[method-assign]


def _in_fp32(module: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return type(module).forward(module, x.float())  # type: ignore[no-any-return]
