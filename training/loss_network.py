"""A batch -> the terms of its loss: all that runs on the device in a step's forward pass.

B batch, S crop size, (h, w) the feature map.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.knet import KNet, KNetOutput, valid_cells
from model.normalise import normalise
from training.config import TrainConfig
from training.criterion import make_criterion
from training.dataset import Target
from training.targets import ImageTargets, prepare_targets

SEED_FACTOR = 1_000_003  # seeds of runs and numbers of samples stay apart


class Batch:
    """One micro-batch. No dataclass, which Fabric would copy and take apart on its way to the network."""

    def __init__(self, images: Tensor, targets: Sequence[Target], numbers: range, forced_share: float = 0.0) -> None:
        self.images = images  # uint8 (B, 3, S, S)
        self.targets = targets
        self.numbers = numbers  # of the samples in the run
        self.forced_share = forced_share  # probability with which a true centre is made a seed

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [target.path for target in self.targets]

    def to(self, device: torch.device) -> "Batch":
        """The same with the images on a device; what the losses need of the targets follows them."""
        return Batch(self.images.to(device, non_blocking=True), self.targets, self.numbers, self.forced_share)


class LossNetwork(nn.Module):
    """Network and criterion as one module, so that whatever wraps it sees a batch go in and a few numbers come out."""

    def __init__(self, network: KNet, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.criterion = make_criterion(config.model, config.loss)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named weighted terms; the total loss is their sum."""
        output, truth = self.predict(batch)
        generator = torch.Generator(device=batch.images.device)
        # Not the seed of any sample: the points are to have nothing to do with the centres that are forced.
        generator.manual_seed(-1 - self.config.seed * SEED_FACTOR - batch.numbers.start)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self.criterion(output, truth, generator)

    def predict(self, batch: Batch) -> tuple[KNetOutput, list[ImageTargets]]:
        """The network's output, and the targets in the criterion's form."""
        device = batch.images.device
        truth = [prepare_targets(target, self.config.model, device) for target in batch.targets]
        pixels, valid = batch_inputs(batch.images, batch.targets, self.config)
        return self.network(pixels, valid, forced_seeds(truth, batch, self.config)), truth

    def train(self, mode: bool = True) -> "LossNetwork":
        """Frozen batch norms keep their statistics; their weights are still trained."""
        super().train(mode)
        if self.config.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def batch_inputs(images: Tensor, targets: Sequence[Target], config: TrainConfig) -> tuple[Tensor, Tensor | None]:
    """Crops (B, 3, S, S) uint8 -> what the network takes: normalised pixels, and valid cells (B, 1, h, w).

    Without valid cells masks may reach into the padding.
    """
    size, stride, device = images.shape[-1], config.model.feature_stride, images.device
    valid_size = torch.tensor([target.valid_size for target in targets], device=device)
    mean = torch.tensor([target.pixel_mean for target in targets], device=device)
    std = torch.tensor([target.pixel_std for target in targets], device=device)
    pixels = normalise(images, valid_cells(valid_size, size, size, 1), config.model.normalisation, mean, std)
    cells = None
    if not config.model.padding_in_masks:
        cells = valid_cells(valid_size, size // stride, size // stride, stride)
    return pixels.contiguous(memory_format=torch.channels_last), cells


def forced_share(step: int, config: TrainConfig) -> float:
    """Probability with which a true centre is made a seed in a step: it falls from 1 to 0.

    Without it no seeded kernel would learn at first.
    """
    until = config.forced_seeds_until * config.steps
    if config.model.first_kernels != "seeded" or step >= until:
        return 0.0
    return 1 - step / until


def forced_seeds(truth: Sequence[ImageTargets], batch: Batch, config: TrainConfig) -> Tensor | None:
    """(B, 1, h, w) bool: the true centres that are made seeds. The choice depends on a sample's number alone."""
    if batch.forced_share == 0:
        return None
    chosen = []
    for number, target in zip(batch.numbers, truth, strict=True):
        generator = torch.Generator().manual_seed(config.seed * SEED_FACTOR + number)
        centres = target.centres
        drawn = torch.rand(centres.shape, generator=generator) < batch.forced_share
        chosen.append(centres & drawn.to(centres.device))
    return torch.stack(chosen)[:, None]
