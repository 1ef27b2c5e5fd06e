"""How a process that trains on a CPU handles memory and tiny numbers (measured in docs/nuclei.md)."""

import ctypes

import torch

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
