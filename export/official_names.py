"""Tensor names and layouts of the official K-Net code (mmdetection and mmsegmentation) <-> ours, both ways, strictly.

A configuration's network on the meta device says which tensors there must be; nothing is guessed from the file.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from model.config import KNetConfig
from model.knet import KNet

SwinNaming = Literal["mmcv", "original"]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
State = Mapping[str, Tensor]

# Of a stage; ours -> theirs.
_STAGE: tuple[Rule, ...] = (
    (r"feature_transform\.", r"feat_transform.conv."),
    (r"adaptive_update\.group_layer\.", r"kernel_update_conv.dynamic_layer."),
    (r"adaptive_update\.kernel_layer\.", r"kernel_update_conv.input_layer."),
    (r"adaptive_update\.group_gate\.", r"kernel_update_conv.update_gate."),
    (r"adaptive_update\.kernel_gate\.", r"kernel_update_conv.input_gate."),
    (r"adaptive_update\.group_gate_norm\.", r"kernel_update_conv.norm_in."),
    (r"adaptive_update\.kernel_gate_norm\.", r"kernel_update_conv.input_norm_in."),
    (r"adaptive_update\.group_norm\.", r"kernel_update_conv.norm_out."),
    (r"adaptive_update\.kernel_norm\.", r"kernel_update_conv.input_norm_out."),
    (r"adaptive_update\.output\.", r"kernel_update_conv.fc_layer."),
    (r"adaptive_update\.output_norm\.", r"kernel_update_conv.fc_norm."),
    (r"interaction\.in_proj\.", r"attention.attn.in_proj_"),
    (r"interaction\.out_proj\.", r"attention.attn.out_proj."),
    (r"interaction\.(attention_norm|ffn_norm)\.", r"\1."),
    (r"interaction\.ffn\.0\.", r"ffn.layers.0.0."),
    (r"interaction\.ffn\.2\.", r"ffn.layers.1."),
    (r"class_branch\.hidden\.", r"cls_fcs.0."),
    (r"class_branch\.norm\.", r"cls_fcs.1."),
    (r"class_branch\.output\.", r"fc_cls."),
    (r"mask_branch\.hidden\.", r"mask_fcs.0."),
    (r"mask_branch\.norm\.", r"mask_fcs.1."),
    (r"mask_branch\.output\.", r"fc_mask."),
)
_RESNET: tuple[Rule, ...] = (
    (r"backbone\.body\.conv1\.(\d)\.", r"backbone.stem.\1."),
    (r"backbone\.body\.", r"backbone."),
)
_SWIN: dict[SwinNaming, tuple[Rule, ...]] = {
    "mmcv": (
        (r"backbone\.body\.patch_embed\.proj\.", r"backbone.patch_embed.projection."),
        (r"backbone\.body\.layers_(\d)\.downsample\.", lambda m: f"backbone.stages.{int(m[1]) - 1}.downsample."),
        (r"backbone\.body\.layers_(\d)\.blocks\.(\d+)\.attn\.", r"backbone.stages.\1.blocks.\2.attn.w_msa."),
        (r"backbone\.body\.layers_(\d)\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.stages.\1.blocks.\2.ffn.layers.0.0."),
        (r"backbone\.body\.layers_(\d)\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.stages.\1.blocks.\2.ffn.layers.1."),
        (r"backbone\.body\.layers_(\d)\.", r"backbone.stages.\1."),
        (r"backbone\.body\.", r"backbone."),
        (r"backbone\.norms\.(\d)\.", r"backbone.norm\1."),
    ),
    "original": (
        (r"backbone\.body\.layers_(\d)\.downsample\.", lambda m: f"backbone.layers.{int(m[1]) - 1}.downsample."),
        (r"backbone\.body\.layers_(\d)\.", r"backbone.layers.\1."),
        (r"backbone\.body\.", r"backbone."),
        (r"backbone\.norms\.(\d)\.", r"backbone.norm\1."),
    ),
}


def _conv_norms(modules: Iterable[tuple[str, str]], norm: str) -> list[Rule]:
    """Rules for our ConvNorm modules: child 0 is the convolution, child 1 the norm."""
    return [
        (rf"{ours}\.{child}\.", rf"{theirs}.{name}.")
        for ours, theirs in modules
        for child, name in ((0, "conv"), (1, norm))
    ]


def _detection_rules() -> list[Rule]:
    fpn = r"rpn_head.localization_fpn"
    return [
        (r"neck\.fpn\.laterals\.(\d)\.", r"neck.lateral_convs.\1.conv."),
        (r"neck\.fpn\.outputs\.(\d)\.", r"neck.fpn_convs.\1.conv."),
        # Doublings stand between the convolutions of a level: 0, 2, 4 are the first, second and third.
        *(
            rule
            for place in range(3)
            for rule in _conv_norms(
                [(rf"neck\.semantic_fpn\.levels\.(\d)\.{2 * place}", rf"{fpn}.convs_all_levels.\1.conv{place}")], "gn"
            )
        ),
        *_conv_norms(
            [
                (r"neck\.semantic_fpn\.localisation", f"{fpn}.conv_pred"),
                (r"neck\.semantic_fpn\.segmentation", f"{fpn}.aux_convs.0"),
                (r"kernel_head\.localisation", "rpn_head.loc_convs.0"),
                (r"kernel_head\.segmentation", "rpn_head.seg_convs.0"),
            ],
            "gn",
        ),
        (r"kernel_head\.things\.weight", r"rpn_head.init_kernels.weight"),
        (r"kernel_head\.conv_seg\.", r"rpn_head.conv_seg."),
        *((rf"stages\.(\d)\.{ours}", _below(r"roi_head.mask_head", theirs)) for ours, theirs in _STAGE),
    ]


def _semantic_rules(config: KNetConfig) -> list[Rule]:
    head = r"decode_head.kernel_generate_head"
    merge = {"fcn": "conv_cat", "psp": "", "aspp": "bottleneck", "uper": "fpn_bottleneck"}[config.neck]
    convs = {"fcn": "convs", "aspp": "aspp_modules"}.get(config.neck, "")
    return [
        *_conv_norms(
            [
                (r"neck\.convs\.(\d)", rf"{head}.{convs}.\1"),
                (r"neck\.merge", rf"{head}.{merge}"),
                (r"neck\.image", rf"{head}.image_pool.1"),
                (r"neck\.pyramid\.convs\.(\d)", rf"{head}.psp_modules.\1.1"),
                (r"neck\.pyramid\.merge", rf"{head}.bottleneck"),
                (r"neck\.laterals\.(\d)", rf"{head}.lateral_convs.\1"),
                (r"neck\.outputs\.(\d)", rf"{head}.fpn_convs.\1"),
                (r"auxiliary\.conv", "auxiliary_head.convs.0"),
            ],
            "bn",
        ),
        (r"auxiliary\.conv_seg\.", r"auxiliary_head.conv_seg."),
        (r"kernel_head\.conv_seg\.", rf"{head}.conv_seg."),
        *((rf"stages\.(\d)\.{ours}", _below(r"decode_head.kernel_update_head", theirs)) for ours, theirs in _STAGE),
    ]


def _below(heads: str, theirs: str | Callable[[re.Match[str]], str]) -> str:
    """The template of a stage's tensor; group 1 is the stage, so the rule's own groups count one more."""
    assert isinstance(theirs, str)
    return rf"{heads}.\1." + theirs.replace(r"\1", r"\2")


def _rules(config: KNetConfig, swin: SwinNaming) -> tuple[Rule, ...]:
    is_swin = config.backbone.name.startswith("swin_")
    backbone = _SWIN[swin] if is_swin else _RESNET
    if config.backbone.name.endswith("c"):  # the norm after the last convolution of a deep stem
        backbone = ((r"backbone\.body\.bn1\.", r"backbone.stem.7."), *backbone)
    head = _semantic_rules(config) if config.kind == "semantic" else _detection_rules()
    return tuple(chain(backbone, head))


@dataclass(frozen=True)
class Expected:
    """One tensor that a file of a configuration must hold."""

    ours: str
    shape: tuple[int, ...]  # in the file
    is_float: bool  # or an integer
    permutation: Tensor | None  # of the last axis: ours = theirs[..., permutation]


@cache
def expected_tensors(config: KNetConfig, swin: SwinNaming = "mmcv") -> dict[str, Expected]:
    """Official name -> what it is with us, in our order.

    Args:
        swin: "mmcv": the names of mmdetection and mmsegmentation; "original": those of Swin's authors' own detection
            and segmentation code, whose patch merging has our order of neighbours.
    """
    with torch.device("meta"):
        state = KNet(config).state_dict()
    rules = _rules(config, swin)
    expected = {}
    for name, tensor in state.items():
        shape, permutation = tuple(tensor.shape), None
        if name == "kernel_head.things.weight":
            shape = (*shape, 1, 1)  # theirs are a 1x1 convolution
        if swin == "mmcv" and ".downsample." in name and config.backbone.name.startswith("swin_"):
            permutation = _merging_order(shape[-1] // 4)
        expected[_rename(name, rules)] = Expected(name, shape, tensor.is_floating_point(), permutation)
    assert len(expected) == len(state), "two of our tensors have one official name"
    return expected


def _rename(name: str, rules: tuple[Rule, ...]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    raise KeyError(f"no official name for {name}")


def _merging_order(channels: int) -> Tensor:
    """Patch merging's inputs: theirs are (channel, row, column) of the 2x2 neighbours, ours (column, row, channel)."""
    theirs = torch.arange(4 * channels, device="cpu").reshape(channels, 2, 2)
    return theirs.permute(2, 1, 0).flatten()


def to_ours(state: State, config: KNetConfig, swin: SwinNaming = "mmcv") -> dict[str, Tensor]:
    """The official tensors under our names and in our layout. `state` must hold exactly the expected names."""
    result = {}
    for name, expected in expected_tensors(config, swin).items():
        tensor = state[name] if expected.permutation is None else state[name][..., expected.permutation]
        result[expected.ours] = tensor[..., 0, 0] if expected.ours == "kernel_head.things.weight" else tensor
    return result


def to_official(state: State, config: KNetConfig, swin: SwinNaming = "mmcv") -> dict[str, Tensor]:
    """Our tensors under the official names and in their layout: the inverse of `to_ours`."""
    result = {}
    for name, expected in expected_tensors(config, swin).items():
        tensor = state[expected.ours]
        if expected.permutation is not None:
            tensor = tensor[..., expected.permutation.argsort()]
        result[name] = tensor.reshape(expected.shape)
    return result
