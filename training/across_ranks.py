"""What the losses are divided by when several processes train together."""

import torch
from torch import Tensor, distributed


def across_ranks(count: Tensor) -> Tensor:
    """A count of objects, kernels or pixels -> its mean over the ranks, where no less than 1 is counted in all.

    Distributed training averages the ranks' gradients. A rank that divides its sum by this mean, not by its own count,
    makes the average what one process would get from all images at once: sum of sums / sum of counts.

    Every rank must call it equally often, also for an image without objects. Without `torch.distributed` set up it
    is the count itself, at least 1.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return count.clamp(min=1)
    total = count.detach().to(torch.float64 if count.dtype == torch.float64 else torch.float32, copy=True)
    distributed.all_reduce(total)
    return total.clamp(min=1) / distributed.get_world_size()
