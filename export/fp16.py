"""A graph that computes in fp32 -> the same graph with its heavy parts in fp16.

In fp16 are convolutions and matrix products, and what lies between them alone. Everything else stays fp32: LayerNorms,
softmaxes, positions and their squares, the merge, and the group features (sums over thousands of pixels, which fp16
cannot hold) with all that is computed from them until something bounds it again.

The types are in the graph, with Casts at the borders, so that each runtime computes in what is written there.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.tensorrt_graph import drop_unused_constants, element_types

_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# In fp16 where everything that they read is.
_LIGHT = frozenset(
    {"Add", "AveragePool", "Clip", "Concat", "Erf", "Flatten", "Gelu", "HardSigmoid", "HardSwish", "MaxPool", "Mul"}
    | {"Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
# Their outputs have the range that training gave them, whatever they read.
_BOUNDING = frozenset({"Conv", "ConvTranspose", "LayerNormalization", "Sigmoid", "Softmax", "Tanh"})


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph with its heavy parts in fp16; inputs and outputs keep their types.

    Args:
        model: a graph of `export.tensorrt_graph.for_tensorrt`, without control flow.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    types = element_types(inferred.graph)
    opset = next(opset.version for opset in model.opset_import if opset.domain == "")
    half_nodes = _choose(inferred.graph, types)
    _Halving(graph, types, opset).apply(half_nodes)
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(halved, check_type=True, strict_mode=True)


def _choose(graph: onnx.GraphProto, types: dict[str, int]) -> set[int]:
    """Positions of the nodes that compute in fp16."""
    constants = {constant.name for constant in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input)}
    lengths = {constant.name: list(constant.dims) for constant in graph.initializer}
    lengths |= {name: [dim.dim_value for dim in dims] for name, dims in shapes.items()}  # 0: depends on the image
    chosen: set[int] = set()
    half: set[str] = set()
    unbounded: set[str] = set()
    for index, node in enumerate(graph.node):
        floats = [name for name in node.input if types.get(name) == TensorProto.FLOAT]
        inherits = node.op_type not in _BOUNDING and not unbounded.isdisjoint(floats)
        if inherits or _sums_pixels(node, lengths):
            unbounded.update(node.output)
            continue
        read = [name for name in floats if name not in constants]
        if node.op_type in _HEAVY or (node.op_type in _LIGHT and read and half.issuperset(read)):
            chosen.add(index)
            half.update(node.output)
    return chosen


def _sums_pixels(node: onnx.NodeProto, lengths: dict[str, list[int]]) -> bool:
    """The node adds up over a length that depends on the image's size."""
    if node.op_type == "MatMul":
        return not any(lengths.get(name, [0])[axis] for name, axis in zip(node.input, (-1, -2), strict=True))
    return node.op_type == "ReduceSum"


class _Halving:
    """Rewrites nodes of a graph: tensors in fp16 have the name of their fp32 twin with an ending."""

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int], opset: int) -> None:
        self.graph = graph
        self.types = types
        self.opset = opset
        self.constants = {constant.name: constant for constant in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.halves: set[str] = set()  # tensors of which there is an fp16 twin

    def apply(self, chosen: set[int]) -> None:
        """Rewrite the nodes at those positions; Casts join them to the others."""
        wanted = self._read_as_fp32(chosen)
        for index, node in enumerate(self.graph.node):
            if index not in chosen:
                self.nodes.append(node)
                continue
            for position in self._halved_inputs(node):
                node.input[position] = self._half(node.input[position])
            outputs = list(node.output)
            node.output[:] = [_twin(name) for name in outputs]
            self.nodes.append(node)
            self.halves.update(outputs)
            self.nodes.extend(_cast(_twin(name), name, TensorProto.FLOAT) for name in outputs if name in wanted)
        nodes = list(self.nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        drop_unused_constants(self.graph)

    def _read_as_fp32(self, chosen: set[int]) -> set[str]:
        """Tensors that the graph gives out, or that a node reads that stays fp32."""
        wanted = {value.name for value in self.graph.output}
        for index, node in enumerate(self.graph.node):
            halved = set(self._halved_inputs(node)) if index in chosen else set()
            wanted.update(name for position, name in enumerate(node.input) if position not in halved)
        return wanted

    def _halved_inputs(self, node: onnx.NodeProto) -> Iterable[int]:
        """Positions of the inputs that have the node's own type; others have a fixed one, as the scales of a Resize."""
        formal = onnx.defs.get_schema(node.op_type, self.opset, "").inputs
        for position, name in enumerate(node.input):
            declared = formal[min(position, len(formal) - 1)].type_str  # the last may stand for any number
            if self.types.get(name) == TensorProto.FLOAT and declared == formal[0].type_str:
                yield position

    def _half(self, name: str) -> str:
        """Name of the fp16 twin of an fp32 tensor, which is made where there is none yet."""
        if name not in self.halves:
            self.halves.add(name)
            if name in self.constants:
                values = numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, _twin(name)))
            else:
                self.nodes.append(_cast(name, _twin(name), TensorProto.FLOAT16))
        return _twin(name)


def _twin(name: str) -> str:
    return f"{name}.fp16"


def _cast(name: str, to_name: str, to: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [name], [to_name], name=f"{to_name}.cast", to=to)
