"""image -> feature maps at strides 2 to 32, by timm."""

from typing import Any, cast

import timm
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn


class Backbone(nn.Module):
    """A timm network cut at the given levels.

    Args:
        name: a timm model that supports `features_only`.
        levels: timm `out_indices`, finest first; level i has stride 2 ** (i + 1).

    Raises:
        ValueError: timm does not know the name, or the strides are not 2 ** (level + 1).
    """

    def __init__(self, name: str, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not timm.is_model(name):
            similar = ", ".join(timm.list_models(f"*{name[:8]}*")[:8])
            raise ValueError(f"timm has no backbone {name!r}; similar: {similar}")
        self.body = timm.create_model(name, pretrained=False, features_only=True, out_indices=levels)
        _fix_same_padding(self.body)
        info = cast(Any, self.body.feature_info)
        self.channels: list[int] = info.channels()
        self.strides: list[int] = info.reduction()
        if self.strides != [2 ** (level + 1) for level in levels]:
            raise ValueError(
                f"backbone {name!r} has strides {self.strides} at levels {levels}; legal: 2 ** (level + 1)"
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> one (B, C_i, H / stride_i, W / stride_i) a level."""
        return cast(list[Tensor], self.body(images))


class _Conv2dEven(nn.Conv2d):
    """TensorFlow's "same" padding for stride 2 and even sizes: the odd pixel goes right and below.

    timm computes it from the input's size at run time. Our sizes are multiples of the coarsest stride, so it
    is a constant, and the exported graph holds no arithmetic on shapes.
    """

    def forward(self, input: Tensor) -> Tensor:
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        padded = F.pad(input, (before, after, before, after))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _fix_same_padding(module: nn.Module) -> None:
    for name, child in module.named_children():
        if not isinstance(child, Conv2dSame):
            _fix_same_padding(child)
            continue
        if child.stride != (2, 2) or child.dilation != (1, 1):
            raise ValueError(f"cannot fix the padding of a convolution with stride {child.stride}")
        fixed = _Conv2dEven(
            child.in_channels,
            child.out_channels,
            cast(tuple[int, int], child.kernel_size),
            stride=2,
            groups=child.groups,
            bias=child.bias is not None,
        )
        setattr(module, name, fixed)
