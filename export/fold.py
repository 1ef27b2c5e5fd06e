"""Batch norms folded into the convolutions before them, so that rounding sees the weights that the graph holds."""

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from model.knet import KNet


def fold_batch_norms(network: KNet) -> None:
    """Fold in place every batch norm that directly follows a convolution among its parent's modules.

    Raises:
        ValueError: the folded network computes something else, so a backbone registers its modules in another order
            than it runs them.
    """
    multiple = network.config.size_multiple
    size = -(-max(multiple * 2, min(network.config.canvas_sizes)) // multiple) * multiple
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    network.eval()
    with torch.no_grad():
        before = network.backbone(images)
        _fold_children(network)
        after = network.backbone(images)
    for one, other in zip(before, after, strict=True):
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
            raise ValueError(f"batch norms of backbone {network.config.backbone.name!r} cannot be folded by order")


def _fold_children(module: nn.Module) -> None:
    previous: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(previous, nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
            _fold(previous, child)
            follows = nn.Sequential(child.drop, child.act) if isinstance(child, BatchNormAct2d) else nn.Identity()
            setattr(module, name, follows)
        else:
            _fold_children(child)
        previous = child


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
