"""Deformable convolutions in a graph: the operator DeformConv, or GridSample and MatMul for engines without it."""

from torch import nn

from model.deformable import DeformableConv2d

DEFORM_CONV_OPSET = 19  # the first with DeformConv; below it the exporter writes an invalid graph and says nothing


def sample_deformable(network: nn.Module) -> None:
    """Have every deformable convolution of a network sample by grid, in place. The numbers stay."""
    for module in network.modules():
        if isinstance(module, DeformableConv2d):
            module.as_grid_sample = True


def lowest_opset(network: nn.Module, opset: int) -> int:
    """`opset`, or what DeformConv needs where a network will be exported with it."""
    needs_operator = any(
        isinstance(module, DeformableConv2d) and not module.as_grid_sample for module in network.modules()
    )
    return max(opset, DEFORM_CONV_OPSET) if needs_operator else opset
