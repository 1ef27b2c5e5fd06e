"""image -> feature maps at strides 2 to 32, by timm. Swin is in model/swin.py."""

from typing import Any, cast

import timm
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.format import Format
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from model.config import BackboneConfig
from model.deformable import DeformableConv2d
from model.swin import SwinBackbone


def make_backbone(config: BackboneConfig) -> "Backbone | SwinBackbone":
    """The network that a config names.

    Raises:
        ValueError: timm does not know the name, or the network cannot be cut or changed as the config says.
    """
    if not timm.is_model(config.name):
        similar = ", ".join(timm.list_models(f"*{config.name[:8]}*")[:8])
        raise ValueError(f"timm has no backbone {config.name!r}; similar: {similar}")
    return SwinBackbone(config) if config.name.startswith("swin_") else Backbone(config)


class Backbone(nn.Module):
    """A convolutional timm network cut at the given levels.

    Args:
        config: its `name` is of a timm model that supports `features_only`.

    Raises:
        ValueError: the network has other strides, or does not have what should be frozen or made deformable.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        options: dict[str, Any] = {} if config.max_stride == 32 else {"output_stride": config.max_stride}
        self.body = timm.create_model(
            config.name, pretrained=False, features_only=True, out_indices=config.levels, **options
        )
        _fix_same_padding(self.body)
        info = cast(Any, self.body.feature_info)
        self.channels: list[int] = info.channels()
        self.strides: list[int] = info.reduction()
        if getattr(self.body, "output_fmt", None) == Format.NHWC:
            raise ValueError(
                f"backbone {config.name!r} gives maps with channels last; of these only Swin (v1) is known"
            )
        if self.strides != list(config.strides):
            raise ValueError(
                f"backbone {config.name!r} has strides {self.strides} at levels {config.levels}, not {config.strides}"
            )
        module_of = dict(zip(config.levels, info.module_name(), strict=True))
        for level in config.deformable_levels:
            _make_deformable(self.body.get_submodule(module_of[level]), config.name)
        if config.frozen_level is not None:
            _freeze(self.body, last=module_of[config.frozen_level])

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised -> one (B, C_i, H / stride_i, W / stride_i) a level."""
        return cast(list[Tensor], self.body(images))


def _freeze(body: nn.Module, last: str) -> None:
    """No gradient for the children up to the one named."""
    for name, child in body.named_children():
        child.requires_grad_(False)
        if name == last:
            return
    raise ValueError(f"cannot freeze up to {last!r}: the backbone's parts are {[n for n, _ in body.named_children()]}")


def _make_deformable(stage: nn.Module, backbone: str) -> None:
    """Replace the 3x3 convolution of each bottleneck block, strides included."""
    for block in stage.children():
        if not isinstance(block, Bottleneck) or block.conv2.groups != 1:
            raise ValueError(f"backbone {backbone!r} has no bottleneck blocks to make deformable")
        conv = block.conv2
        block.conv2 = DeformableConv2d(
            conv.in_channels,
            conv.out_channels,
            3,
            stride=conv.stride[0],
            padding=cast(tuple[int, int], conv.padding)[0],
            dilation=conv.dilation[0],
        )


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
