"""Activation checkpointing: what a block computes is not kept for the backward pass but computed again in it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

from model.knet import KNet


def checkpoint_activations(network: KNet) -> None:
    """Change a network in place: each block of its backbone, and each stage, keeps its inputs alone.

    Gradients are equal, those through dropout too; batch norms that train see a batch twice but count it once. Names
    in the state dict stay (`named_parameters` shows the wrappers). Neck and kernel head keep what they compute.
    """
    if not _wrap_blocks(network.backbone):
        _wrap_children(network.backbone.body)
    _wrap_children(network.stages)


def _wrap_blocks(module: nn.Module) -> int:
    """Wrap what follows one another in `nn.Sequential`: a block of a level as a rule. Returns how many there were."""
    if isinstance(module, nn.Sequential) and any(_is_block(child) for child in module.children()):
        return _wrap_children(module)
    return sum(_wrap_blocks(child) for child in module.children())


def _wrap_children(module: nn.Module) -> int:
    blocks = {name: child for name, child in module.named_children() if _is_block(child)}
    for name, block in blocks.items():
        setattr(module, name, checkpoint_wrapper(block, context_fn=partial(_contexts, block)))
    return len(blocks)


def _is_block(module: nn.Module) -> bool:
    """More than one layer, at least one of which has many numbers to keep, and no mere row of blocks."""
    inside = (part for child in module.children() for part in child.modules())
    return not isinstance(module, nn.Sequential) and any(isinstance(part, nn.Conv2d | nn.Linear) for part in inside)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the first and the second computation run in."""
    return nullcontext(), uncounted(module)


@contextmanager
def uncounted(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise as before but leave their running statistics as they are."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    # The counter stays in its place and is set back: synchronised norms refuse to work without one.
    before = [
        (norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone())
        for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and num_batches is not None:
                norm.num_batches_tracked.copy_(num_batches)
