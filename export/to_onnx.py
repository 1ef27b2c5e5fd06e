"""Checkpoint -> ONNX graph with normalisation and merge inside, in the form that every engine takes."""

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.deformable import lowest_opset
from export.errors import ExportError
from export.tensorrt_graph import for_tensorrt
from model.config import KNetConfig
from model.panoptic import PanopticModel
from model.served import ServedModel

OPSET = 18  # 19 with the operator for deformable convolution
# TensorRT has no data-dependent shapes worth the name, and control flow stops every optimiser.
FORBIDDEN = frozenset({"Loop", "If", "Scan", "NonZero", "Sort", "Unique", "NonMaxSuppression"})
MAX_BATCH = 64
MAX_SIDE = 4096
_SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of modules


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round matrices and convolution kernels to fp16 in place; vectors (norms, biases) stay as they are.

    Half the size on disk. The graph computes in fp32 with the rounded values, so PyTorch with them is its reference.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half().float())


def check_canvas(config: KNetConfig) -> None:
    """Raise ValueError unless the graph takes every canvas of a config."""
    if max(config.canvas_sizes) > MAX_SIDE:
        raise ValueError(f"canvas_sizes are {config.canvas_sizes}; legal: sides of up to {MAX_SIDE} pixels")


def make_graph(model: ServedModel, *, fixed_size: bool = False) -> onnx.ModelProto:
    """The graph of a model, in fp32.

    Args:
        model: what is served. Its weights are rounded (`round_weights`) where the graph is to be stored as fp16.
        fixed_size: height and width are those of the canvas, which geometry `fit` alone has one of. Otherwise they are
            dynamic: multiples of the network's size multiple, from the smallest canvas to `MAX_SIDE`. The batch always
            is, up to `MAX_BATCH`.

    Raises:
        ExportError: the graph holds an operator that engines do not take.
    """
    config = model.network.config
    multiple = config.size_multiple
    # The largest canvas, but not square, so that height and width stay apart, and of two cells of the coarsest level.
    side = max(2 * multiple, min(-(-max(config.canvas_sizes) // multiple) * multiple, MAX_SIDE - multiple))
    size = (side, side + multiple)
    if fixed_size:
        if config.geometry != "fit":
            raise ValueError(
                f"fixed_size is for geometry fit, not {config.geometry}: choose one canvas, as HEIGHTxWIDTH"
            )
        size = (config.canvas_sizes[0], config.canvas_sizes[1])
    inputs = example_inputs(model, batch=2, size=size)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    smallest = 2  # the exporter takes a length of 1 for a constant
    if config.geometry != "shortest_edge":
        smallest = max(smallest, min(config.canvas_sizes) // multiple)
    rows = torch.export.Dim("rows", min=smallest, max=MAX_SIDE // multiple)
    columns = torch.export.Dim("columns", min=smallest, max=MAX_SIDE // multiple)
    dynamic = {name: {0: batch} for name in inputs}
    if not fixed_size:
        dynamic["image"] = {0: batch, 1: multiple * rows, 2: multiple * columns}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model.eval(),
            (),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dynamic,
            input_names=list(inputs),
            output_names=list(model.output_names),
            opset_version=lowest_opset(model, OPSET),
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    graph = program.model_proto
    _name_blocks(graph.graph)
    _strip(graph)
    graph = for_tensorrt(graph)
    _check(graph)
    return graph


def example_inputs(model: ServedModel, *, batch: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Inputs of the graph by name: noise of that height and width."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "image": torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator),
        "valid_size": torch.tensor([size] * batch, dtype=torch.int32),
    }
    if isinstance(model, PanopticModel):
        inputs |= {"score_threshold": torch.full((batch,), 0.3), "overlap_threshold": torch.full((batch,), 0.5)}
    if model.network.config.normalisation == "image":
        inputs |= {"pixel_mean": torch.full((batch,), 127.5), "pixel_std": torch.full((batch,), 73.9)}
    return inputs


def _name_blocks(graph: onnx.GraphProto) -> None:
    """Name nodes by the module that they are of, so that a profile reads `stages/0/interaction/...`."""
    numbers: Counter[str] = Counter()
    for node in graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == _SCOPES]
        # Names of the modules around the operation, each with its parents', and of the operation.
        *modules, operation = ast.literal_eval(scopes[0]) if scopes else ["", node.op_type]
        block = modules[-1].removeprefix("network.").replace(".", "/") if modules else ""
        name = f"{block or 'model'}/{operation}"
        numbers[name] += 1
        node.name = name if numbers[name] == 1 else f"{name}.{numbers[name]}"


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold paths and stack traces of the machine that exported."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]


def store_as_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with rounded weights as fp16 and a Cast behind them, which runtimes fold when they load the graph."""
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or len(initializer.dims) < 2:
            continue
        values = numpy_helper.to_array(initializer)
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue  # not a rounded weight: a constant of the graph
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        )
    for cast_node in reversed(casts):
        graph.node.insert(0, cast_node)
    # The exporter notes types of initializers here; those of the halved ones are no longer true.
    renamed = {node.output[0] for node in casts}
    kept = [value for value in graph.value_info if value.name not in renamed]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return halved


def _check(graph: onnx.ModelProto) -> None:
    if found := sorted(FORBIDDEN & set(operators(graph))):
        raise ExportError(f"the graph holds {', '.join(found)}, which engines for deployment do not take")
    onnx.checker.check_model(graph, full_check=True)


def operators(graph: onnx.ModelProto) -> Iterable[str]:
    """The operator of every node."""
    return (node.op_type for node in graph.graph.node)
