"""A stack of dense 3x3 convolutions as an ONNX graph, in fp32 or quantised."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def dense_graph(size: tuple[int, int, int], *, quantised: bool) -> onnx.ModelProto:
    """Convolutions and ReLUs in ONNX; quantised as static quantisers write it, around each convolution.

    Args:
        size: channels, height and width, number of convolutions.
    """
    channels, side, layers = size
    rng = np.random.default_rng(0)
    scale = np.sqrt(2 / (9 * channels))  # keeps the values' size from layer to layer
    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def through_int8(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", "step", "zero"], [f"{name}.dq"]))
        return f"{name}.dq"

    if quantised:
        constant("step", np.float32(8 / 255))
        constant("zero", np.uint8(128))
        constant("weight_step", np.full(channels, 4 * scale / 127, np.float32))
        constant("weight_zero", np.zeros(channels, np.int8))
    value = through_int8("x") if quantised else "x"
    for layer in range(layers):
        weight, bias = f"weight{layer}", constant(f"bias{layer}", np.zeros(channels, np.float32))
        shape = (channels, channels, 3, 3)
        if quantised:
            constant(f"{weight}.q", rng.integers(-127, 128, shape, np.int8))
            inputs = [f"{weight}.q", "weight_step", "weight_zero"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [weight], axis=0))
        else:
            constant(weight, (scale * rng.standard_normal(shape)).astype(np.float32))
        convolved, rectified = f"conv{layer}", f"relu{layer}"
        nodes.append(helper.make_node("Conv", [value, weight, bias], [convolved], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [convolved], [rectified]))
        value = through_int8(rectified) if quantised else rectified
    tensor = [1, channels, side, side]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, tensor)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, tensor)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
