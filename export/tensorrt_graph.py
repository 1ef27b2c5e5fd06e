"""An exported graph in the form that TensorRT's parser takes; it computes the same.

What TensorRT restricts is in the operator list of onnx-tensorrt (docs/operators.md) and in NvInfer.h.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.errors import ExportError

_IMAGE = "image"


def for_tensorrt(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without what TensorRT does not take: operations on uint8, comparison of booleans, fp16 storage.

    Raises:
        ExportError: the graph is quantised in a way that TensorRT does not take.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    _check_quantisation(graph)
    _fold_weights(graph)
    _cast_image_first(graph)
    _compare_booleans_without_equal(changed)
    del graph.value_info[:]  # notes of types, some of which are no longer true
    return onnx.shape_inference.infer_shapes(changed, check_type=True, strict_mode=True)


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type of each tensor of a graph whose shapes have been inferred."""
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {constant.name: constant.data_type for constant in graph.initializer}


def _check_quantisation(graph: onnx.GraphProto) -> None:
    """Zero points must be 0 of int8."""
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None and node.op_type == "QuantizeLinear":
            raise ExportError(f"node {node.name} quantises to uint8; TensorRT takes symmetric int8 alone")
        if zero is not None and (
            zero.data_type not in (TensorProto.INT8, TensorProto.INT32) or numpy_helper.to_array(zero).any()
        ):
            raise ExportError(
                f"the zero point of node {node.name} is not 0 of int8; TensorRT takes symmetric int8 alone: "
                "quantise activations and weights symmetrically to signed integers"
            )


def _fold_weights(graph: onnx.GraphProto) -> None:
    """Constants stored as fp16 with a Cast, or as int32 with a DequantizeLinear (biases), become fp32."""
    constants = {constant.name: constant for constant in graph.initializer}
    folded: dict[str, NDArray[np.float32]] = {}
    kept = []
    for node in graph.node:
        stored = constants.get(node.input[0]) if node.input else None
        if stored is not None and node.op_type == "Cast" and stored.data_type == TensorProto.FLOAT16:
            folded[node.output[0]] = numpy_helper.to_array(stored).astype(np.float32)
        elif stored is not None and node.op_type == "DequantizeLinear" and stored.data_type == TensorProto.INT32:
            # A bias has one axis, so that a scale for each channel needs no reshaping.
            scale = numpy_helper.to_array(constants[node.input[1]])
            folded[node.output[0]] = (numpy_helper.to_array(stored) * scale).astype(np.float32)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in folded.items())
    drop_unused_constants(graph)


def _cast_image_first(graph: onnx.GraphProto) -> None:
    """Whatever reads the image reads it as float: a uint8 input may feed a Cast alone, not even a Transpose."""
    if all(value.name != _IMAGE or value.type.tensor_type.elem_type != TensorProto.UINT8 for value in graph.input):
        return
    readers = [node for node in graph.node if _IMAGE in node.input]
    if [node.op_type for node in readers] == ["Cast"]:
        return
    as_float = f"{_IMAGE}.float"
    for node in readers:
        _rename_inputs(node, {_IMAGE: as_float})
    graph.node.insert(0, onnx.helper.make_node("Cast", [_IMAGE], [as_float], name=as_float, to=TensorProto.FLOAT))


def _compare_booleans_without_equal(model: onnx.ModelProto) -> None:
    """Equal of booleans (the exporter's floor division has it) becomes Not(Xor)."""
    types = element_types(onnx.shape_inference.infer_shapes(model).graph)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Equal" and types.get(node.input[0]) == TensorProto.BOOL:
            differs = f"{node.output[0]}.differs"
            nodes.append(onnx.helper.make_node("Xor", node.input, [differs], name=f"{node.name}.xor"))
            nodes.append(onnx.helper.make_node("Not", [differs], node.output, name=f"{node.name}.not"))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove initializers that no node reads."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _rename_inputs(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
