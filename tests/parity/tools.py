"""What the parity tests share: inputs by name, outputs of the parts of a network, statistics."""

import re

import numpy as np
import pytest
import torch

from model.normalise import IMAGENET_MEAN, IMAGENET_STD

VOID = 133  # the number of COCO's categories


def make_input(official_weights, case: str) -> torch.Tensor:
    """The input image that a golden file is named after, float64."""
    known = re.fullmatch(r"(noise|block)_(\d+)x(\d+)", case)
    if known is None:
        pytest.fail(f"no rule for the input {case!r}; legal: noise_HxW, block_HxW")
    kind, height, width = known.groups()
    make = official_weights.make_image if kind == "noise" else official_weights.make_block_image
    return torch.from_numpy(make(int(height), int(width))).double()


def graph_inputs(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """A normalised image (1, 3, H, W) as the pixels that a graph normalises to it."""
    mean, std = (torch.tensor(values).double().reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (image * std + mean).permute(0, 2, 3, 1).float()
    return {"image": pixels, "valid_size": torch.tensor([image.shape[-2:]], dtype=torch.int32)}


def capture(network, image: torch.Tensor) -> dict:
    """Outputs of the parts by name, and of the network."""
    seen = {}
    parts = {"backbone": network.backbone, "neck": network.neck, "head": network.kernel_head}
    parts |= {f"s{i}": stage for i, stage in enumerate(network.stages)}
    parts |= {"fpn": network.neck.fpn} if hasattr(network.neck, "fpn") else {}
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
        for name, part in parts.items()
    ]
    with torch.no_grad():
        seen["output"] = network(image)
    for hook in hooks:
        hook.remove()
    return seen


def stats(maps) -> np.ndarray:
    """Mean, population deviation and largest absolute value of each map."""
    return np.array([[float(x.mean()), float(x.std(correction=0)), float(x.abs().max())] for x in maps])


def as_official(weights: torch.Tensor) -> torch.Tensor:
    """Kernels (B, N, C) -> (B, N, C, 1, 1)."""
    return weights[..., None, None]


def official_map(id_map: torch.Tensor, segment_id: torch.Tensor, class_index: torch.Tensor) -> np.ndarray:
    """One image's id-map (H, W) in official values: class + 1000 * running number of the segment; 133 is void.

    Args:
        segment_id, class_index: (N,) of each kernel.
    """
    value = torch.full((int(id_map.max()) + 1,), VOID)
    kept = segment_id > 0
    numbers = segment_id[kept].long()
    value[numbers] = class_index[kept].long() + 1000 * (numbers - 1)
    return value[id_map.long()].int().numpy()
