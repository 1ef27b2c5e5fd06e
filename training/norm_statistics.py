"""Statistics for batch norms that have none, as those of an artifact: its export folded them into the convolutions.

While a network is trained, its batch norms look at the batch alone. Were their weights not made for its statistics, the
first step would undo what the network knows.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from model.knet import KNet
from training.config import TrainConfig
from training.data.index import DataIndex
from training.dataset import collate
from training.loader import make_samples
from training.loss_network import batch_inputs

_NUM_CROPS = 96


def measure_statistics(network: KNet, config: TrainConfig, train: DataIndex) -> None:
    """Give the batch norms of a network on the CPU the statistics of training crops, and weights that fit them.

    Those that take no part in what it computes stay as they are. In evaluation mode the network computes the same as
    before, up to rounding.
    """
    samples = make_samples(config, train, cache_bytes=0)
    starts = range(0, max(_NUM_CROPS, config.batch_size), config.batch_size)
    batches = (collate([samples[start + number] for number in range(config.batch_size)]) for start in starts)
    set_statistics(network, (batch_inputs(*batch, config) for batch in batches))


@torch.no_grad()
def set_statistics(network: KNet, inputs: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """As `measure_statistics`, over batches of what the network takes: pixels and valid cells."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}
    hooks = [norm.register_forward_pre_hook(_adder(total)) for norm, total in sums.items()]
    was_training = network.training
    network.eval()
    for pixels, valid in inputs:
        network(pixels, valid)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for norm, (count, total, squares) in sums.items():
        if not count.any():  # of the auxiliary head: it serves the loss alone, so no artifact has it, and it starts new
            continue
        mean = total / count
        _set(norm, mean.float(), (squares / count - mean.square()).clamp(min=0).float())


def _adder(sums: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
    """Adds number, sum and sum of squares of each channel of what a module is given (3, C)."""

    def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
        values = inputs[0].double()
        count = torch.full((values.shape[1],), values.numel() / values.shape[1], dtype=torch.float64)
        sums.add_(torch.stack((count, values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)))))

    return add


def _set(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """New statistics, and the weights with which the norm gives what it gave."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.bias.add_(factor * (mean - norm.running_mean))
    norm.weight.copy_(factor * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
