"""The weights of an artifact, whose graph holds them all: a run can start from them where no checkpoint is at hand.

They are what the export left: batch norms are folded into the convolutions before them, and matrices and filters may
have been rounded to fp16.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.knet import KNet
from service.artifact import FILE_NAME, ArtifactMetadata

Array = NDArray[Any]

_PREFIX = "network."  # of names in the graph
# Of a filter before a batch norm: what it has at PyTorch's own start, in the mean. What follows takes no notice of it,
# but the shorter a filter is, the further a step of the optimiser turns it.
_FILTER_LENGTH = 3**-0.5


def is_artifact(folder: Path) -> bool:
    """Whether a folder is one, and no checkpoint."""
    return (folder / FILE_NAME).is_file()


def artifact_state(folder: Path, metadata: ArtifactMetadata, network: KNet) -> dict[str, Tensor]:
    """The state of a network that computes what the artifact does, in evaluation mode.

    Args:
        folder: the artifact's.
        metadata: the artifact's.
        network: of the same form, as far as weights are to be found; it stays as it is.

    Returns:
        Tensors by the network's names, in the shapes of the graph. Batch norms have mean 0 and variance 1, which are no
        statistics of any data: `training.norm_statistics` measures some.

    Raises:
        ValueError: the artifact has no graph of ONNX in fp32, or the package `onnx` is missing.
    """
    files = [variant.file for variant in metadata.variants if variant.name == "onnxruntime-fp32"]
    if not files:
        raise ValueError(f"{folder} has no variant onnxruntime-fp32, whose graph holds the weights")
    state = dict(_read_graph(folder / files[0]))
    for name, norm_name, norm in _convolutions_before_norms(network):
        bias = state.pop(f"{name}.bias", None)
        if bias is None:
            continue  # the network of the artifact has other parts
        length = state[f"{name}.weight"].flatten(1).norm(dim=1).clamp(min=1e-12) / _FILTER_LENGTH
        state[f"{name}.weight"] = state[f"{name}.weight"] / length[:, None, None, None]
        state[f"{norm_name}.weight"] = length * (1 + norm.eps) ** 0.5
        state[f"{norm_name}.bias"] = bias
        state[f"{norm_name}.running_mean"] = torch.zeros_like(bias)
        state[f"{norm_name}.running_var"] = torch.ones_like(bias)
        state[f"{norm_name}.num_batches_tracked"] = torch.tensor(0)
    return state


def _convolutions_before_norms(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, str, nn.BatchNorm2d]]:
    """Names of convolution and batch norm wherever the export folds the one into the other (export/fold.py)."""
    previous: tuple[str, nn.Module | None] = "", None
    for name, child in module.named_children():
        if isinstance(previous[1], nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
            yield prefix + previous[0], prefix + name, child
        else:
            yield from _convolutions_before_norms(child, f"{prefix}{name}.")
        previous = name, child


def _read_graph(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The graph's weights by the names of the network's parameters; of a name that comes twice the later one counts."""
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise ValueError("to start from an artifact the package onnx is needed: pip install onnx") from error
    graph = onnx.load(path).graph
    arrays = {constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]]
    for name, array in arrays.items():
        if name.startswith(_PREFIX):
            yield name.removeprefix(_PREFIX), _tensor(array)
    # The exporter turns matrices round, and what is equal has one name. But nodes say of which module they are
    # (export/to_onnx.py).
    for node in graph.node:
        module, _, operation = node.name.rpartition("/")
        constants = [arrays[name] for name in node.input if name in arrays]
        for name, array in _weights_of(node.op_type, operation, constants):
            yield f"{module.replace('/', '.')}.{name}", _tensor(array)


def _weights_of(kind: str, operation: str, constants: list[Array]) -> Iterator[tuple[str, Array]]:
    """What the constants of a node are to the module that it is of.

    Args:
        kind: operator of ONNX.
        operation: of torch, perhaps with a number.
        constants: that the node reads, in order.
    """
    if not constants:
        return
    first = constants[0]
    if kind in ("Conv", "LayerNormalization"):
        yield "weight", first
        yield "bias", constants[1] if len(constants) > 1 else np.zeros(len(first))  # zeros are left out
    elif kind == "MatMul":
        yield "weight", first.T
        yield "bias", np.zeros(first.shape[1])  # unless an Add follows
    elif kind == "Add" and operation.startswith("linear"):
        yield "bias", first
    elif kind in ("Mul", "Add") and operation.startswith("group_norm"):
        yield "weight" if kind == "Mul" else "bias", first.ravel()
    elif kind == "Mul" and first.ndim == 3 and (first < 0).all():
        # -softplus(w) of each head, which the exporter has computed.
        yield "distance_weight", np.log(np.expm1(-first.astype(np.float64).ravel()))


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))
