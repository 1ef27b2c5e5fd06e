"""What the parity tests share: inputs by name, outputs of the parts of a network, statistics."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from model.normalise import IMAGENET_MEAN, IMAGENET_STD


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


def load_module(path: Path) -> ModuleType:
    """A Python file that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
