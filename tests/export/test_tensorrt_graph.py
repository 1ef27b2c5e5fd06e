"""The graph that TensorRT is given: no operator, type or attribute that it does not take, and the same answers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from export.fp16 import to_fp16
from export.tensorrt_graph import element_types, for_tensorrt
from service.session import OnnxSession

REPOSITORY = Path(__file__).parents[2] / "repository"
KINDS = ["learned", "seeded", "instance", "semantic"]

# Of the list of onnx-tensorrt (docs/operators.md, TensorRT 10.15), the operators that exported graphs have.
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
INTEGERS = {TensorProto.INT32, TensorProto.INT64}
BOOL = {TensorProto.BOOL}
OF_FLOATS = (
    "Asinh Clip Conv Cos Erf Exp Floor InstanceNormalization LayerNormalization Log MatMul MaxPool Sigmoid Sin Softmax "
    "Softplus Sqrt Tanh"
)
OF_NUMBERS = (
    "Abs Add ArgMax Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul Neg Pad Pow Range ReduceMax "
    "ReduceMean ReduceSum Relu Sub TopK"
)
OF_ALL = (
    "Concat ConstantOfShape Expand EyeLike Gather GatherElements Reshape Shape Slice Split Squeeze Tile Transpose "
    "Unsqueeze Where"
)
TAKEN = (
    dict.fromkeys(OF_FLOATS.split(), FLOATS)
    | dict.fromkeys(OF_NUMBERS.split(), FLOATS | INTEGERS)
    | dict.fromkeys(OF_ALL.split(), FLOATS | INTEGERS | BOOL)
    | dict.fromkeys(["And", "Not", "Or", "Xor"], BOOL)
    | {"Cast": FLOATS | INTEGERS | BOOL | {TensorProto.UINT8}, "Resize": FLOATS | {TensorProto.INT64}}  # its sizes
)
MAX_K = 3840


def graph_of(exported, kind):
    return onnx.load(exported[kind].folder / "model.onnx")


def inputs_of(model, rng, *, batch=2, size=(64, 96)):
    """Noise for the inputs that the graph has."""
    given = {
        "image": rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8),
        "valid_size": np.array([size, (size[0] - 20, size[1] - 9)], np.int32)[:batch],
        "score_threshold": np.full(batch, 0.3, np.float32),
        "overlap_threshold": np.full(batch, 0.5, np.float32),
        "pixel_mean": np.full(batch, 127.5, np.float32),
        "pixel_std": np.full(batch, 73.9, np.float32),
    }
    return {value.name: given[value.name] for value in model.graph.input}


def check_taken(model):
    graph = model.graph
    types = element_types(graph)
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.value_info}
    shapes |= {name: list(values.shape) for name, values in constants.items()}
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        found = {types[name] for name in node.input if name}
        assert found <= TAKEN[node.op_type], (node.op_type, node.name, found)
        if node.op_type == "Resize":
            assert attributes["mode"] in (b"nearest", b"linear")
            assert attributes["coordinate_transformation_mode"] in (b"asymmetric", b"half_pixel", b"align_corners")
            assert not attributes.get("antialias")
        if node.op_type == "EyeLike":
            assert all(shapes[node.input[0]])  # static
        if node.op_type == "TopK":
            assert attributes.get("sorted", 1)
            assert constants[node.input[1]].max() < MAX_K
        if node.op_type.startswith("Reduce") or node.op_type in ("Squeeze", "Unsqueeze"):
            assert all(name in constants for name in node.input[1:] if name)  # axes


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrt_takes_every_operator(exported, kind):
    graph = for_tensorrt(graph_of(exported, kind))
    check_taken(graph)
    check_taken(to_fp16(graph))


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("*/*/model.onnx")), ids=lambda path: path.parts[-3])
def test_tensorrt_takes_the_bundled_models(path):
    graph = for_tensorrt(onnx.load(path))
    check_taken(graph)
    check_taken(to_fp16(graph))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_stay_the_same(exported, kind, tmp_path):
    before = graph_of(exported, kind)
    onnx.save(for_tensorrt(before), tmp_path / "after.onnx")
    inputs = inputs_of(before, np.random.default_rng(0))
    expected = OnnxSession(exported[kind].folder / "model.onnx", threads=1).run(inputs)
    outputs = OnnxSession(tmp_path / "after.onnx", threads=1).run(inputs)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        assert outputs[name].dtype == value.dtype
        np.testing.assert_allclose(outputs[name], value, atol=1e-4, err_msg=name)


def test_the_image_feeds_one_cast(exported):
    graph = for_tensorrt(graph_of(exported, "learned")).graph
    readers = [node for node in graph.node if "image" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]


def quantised(zero_point):
    """One convolution between a QuantizeLinear and DequantizeLinear, with that zero point (an array) of the input."""
    constants = [
        numpy_helper.from_array(np.float32(0.5), "scale"),
        numpy_helper.from_array(zero_point, "zero"),
        numpy_helper.from_array(np.full((2, 3, 1, 1), 4, np.int8), "weight"),
        numpy_helper.from_array(np.array([10, 20], np.int32), "bias"),
        numpy_helper.from_array(np.float32(0.25), "bias_scale"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["w"], name="w"),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["b"], name="b"),
        helper.make_node("Conv", ["d", "w", "b"], ["y"], name="conv"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, n, 4, 4)) for name, n in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_biases_are_no_longer_quantised():
    graph = for_tensorrt(quantised(np.int8(0))).graph
    assert [node.name for node in graph.node] == ["q", "d", "w", "conv"]
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    np.testing.assert_array_equal(constants["b"], [2.5, 5.0])


@pytest.mark.parametrize("zero_point", [np.uint8(0), np.int8(3)])
def test_other_quantisation_is_refused(zero_point):
    with pytest.raises(ExportError, match="symmetric int8 alone"):
        for_tensorrt(quantised(zero_point))
