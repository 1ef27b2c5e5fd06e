"""Targets and outputs that the tests of the losses share."""

from pathlib import Path

import torch

from model.knet import KNetOutput
from training.dataset import Target
from training.targets import prepare_targets

SIZE = 64


def make_target(boxes=((0, 0, 16, 32), (32, 16, 48, 48)), classes=(0, 1), stuff=(2, 3)):
    """Boxes (y0, x0, y1, x1) of things on two halves of stuff. Multiples of 16: sharp at every stride."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    free = ~masks.any(dim=0)
    left = torch.arange(SIZE) < SIZE // 2
    halves = {2: free & left, 3: free & ~left}
    return Target(
        masks=torch.cat((masks, *[halves[index][None] for index in stuff])),
        class_index=torch.tensor([*classes, *stuff], dtype=torch.int64),
        crowd_masks=torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
        crowd_class=torch.zeros(0, dtype=torch.int64),
        valid_size=(SIZE, SIZE),
        pixel_mean=0.0,
        pixel_std=1.0,
        path=Path("synthetic"),
    )


def make_empty_target():
    return make_target((), (), ())


def make_output(config, batch):
    """Leaves of a graph in place of a network's output, at random."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    num_kernels = config.num_kernels + config.num_stuff
    mask, feature = SIZE // config.mask_stride, SIZE // config.feature_stride
    seeded, semantic = config.first_kernels == "seeded", config.kind == "semantic"
    return KNetOutput(
        tuple(leaf(batch, num_kernels, mask, mask) for _ in range(config.num_stages + 1)),
        leaf(batch, num_kernels, feature, feature),
        () if semantic else tuple(leaf(batch, num_kernels, config.num_classes) for _ in range(config.num_stages)),
        leaf(batch, config.num_classes, feature, feature),
        leaf(batch, 1, feature, feature) if seeded else None,
        torch.ones(batch, num_kernels, dtype=torch.bool) if seeded else None,
        leaf(batch, config.num_classes, feature // 4, feature // 4) if config.auxiliary else None,
        leaf(batch, 2, feature, feature) if seeded else None,
    )


def truths(config, *targets):
    return [prepare_targets(target, config, dtype=torch.float64) for target in targets]


def total(terms):
    return torch.stack(list(terms.values())).sum()
