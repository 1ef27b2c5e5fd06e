"""A checkpoint: a folder with `config.json` and `model.safetensors`, loaded strictly."""

from pathlib import Path
from shutil import copymode

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.config import KNetConfig
from model.knet import KNet

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save(network: KNet, folder: Path) -> None:
    """Write the checkpoint; each file appears whole or not at all.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        save_file(tensors, folder / f"{WEIGHTS}.part")
    except SafetensorError as error:
        raise OSError(f"cannot write {folder / WEIGHTS}: {error}") from error
    (folder / f"{CONFIG}.part").write_text(network.config.to_json())
    # safetensors writes for the owner alone; whoever may read the one file may read the other.
    copymode(folder / f"{CONFIG}.part", folder / f"{WEIGHTS}.part")
    for name in (WEIGHTS, CONFIG):
        (folder / f"{name}.part").replace(folder / name)


def load(folder: Path) -> KNet:
    """The network of a checkpoint, in evaluation mode, on the CPU.

    Raises:
        ValueError: a file is missing or damaged, or names, shapes and config do not agree.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no checkpoint: it has no {name} (a checkpoint has {CONFIG} and {WEIGHTS})")
    try:
        network = KNet(KNetConfig.from_json((folder / CONFIG).read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    try:
        network.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit its config: {error}") from error
    return network.eval()
