import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.fp16 import to_fp16
from export.tensorrt_graph import element_types, for_tensorrt
from service.session import OnnxSession

KINDS = ["learned", "seeded", "instance", "semantic"]


@pytest.fixture(scope="module")
def halved(exported):
    """Per kind, the graph in fp32 and in fp16."""
    graphs = {kind: for_tensorrt(onnx.load(exported[kind].folder / "model.onnx")) for kind in KINDS}
    return {kind: (graph, to_fp16(graph)) for kind, graph in graphs.items()}


def nodes_by_type(model, op_type):
    """Nodes of an operator whose first output is fp32, and those of which it is fp16."""
    types = element_types(model.graph)
    nodes = [node for node in model.graph.node if node.op_type == op_type]
    return tuple([node for node in nodes if types[node.output[0]] == wanted] for wanted in (1, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_are_halved_and_norms_are_not(halved, kind):
    onnx.checker.check_model(halved[kind][1], full_check=True)
    for op_type in ("Conv", "LayerNormalization", "Softmax"):
        whole, half = nodes_by_type(halved[kind][1], op_type)
        assert not (whole if op_type == "Conv" else half), op_type


@pytest.mark.parametrize("kind", ["learned", "seeded", "instance"])
def test_group_features_stay_whole(exported, halved, kind):
    """One product a stage sums over pixels. What is computed from it stays fp32 up to the next LayerNorm."""
    after = halved[kind][1]
    whole, half = nodes_by_type(after, "MatMul")
    readers = {name: node for node in after.graph.node for name in node.input}
    sums = [node for node in whole if readers[node.output[0]].op_type == "MatMul"]
    assert len(sums) == len(exported[kind].network.stages)
    assert half  # the masks, and attention


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_keep_their_types(halved, kind):
    before, after = halved[kind]
    assert list(after.graph.input) == list(before.graph.input)
    kept = [(value.name, value.type.tensor_type.elem_type) for value in before.graph.output]
    assert [(value.name, value.type.tensor_type.elem_type) for value in after.graph.output] == kept


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_makes_a_detour_through_fp16(halved, kind):
    """No fp32 value is cast to fp16 and back: the island that it comes from would have been for nothing."""
    producers = {name: node for node in halved[kind][1].graph.node for name in node.output}
    for node in producers.values():
        if node.op_type == "Cast" and (before := producers.get(node.input[0])) is not None:
            assert not (before.op_type == "Cast" and before.attribute[0].i == TensorProto.FLOAT16)


def run(model, inputs, folder):
    onnx.save(model, folder / "graph.onnx")
    return OnnxSession(folder / "graph.onnx", threads=1).run(inputs)


@pytest.mark.parametrize(("kind", "outputs"), [("instance", ["mask_logits", "score"]), ("learned", ["score"])])
def test_numbers_are_near_those_of_fp32(halved, kind, outputs, tmp_path):
    rng = np.random.default_rng(0)
    size = (64, 96)
    given = {
        "image": rng.integers(0, 256, (1, *size, 3), dtype=np.uint8),
        "valid_size": np.array([size], np.int32),
        "score_threshold": np.full(1, 0.3, np.float32),
        "overlap_threshold": np.full(1, 0.5, np.float32),
    }
    before, after = halved[kind]
    inputs = {value.name: given[value.name] for value in before.graph.input}
    expected, found = run(before, inputs, tmp_path), run(after, inputs, tmp_path)
    for name in outputs:
        # fp16 has 11 bits; a few dozen layers add up their roundings.
        np.testing.assert_allclose(found[name], expected[name], atol=2e-2 * np.abs(expected[name]).max(), err_msg=name)
    for name in ("id_map", "class_map"):
        if name in expected:
            assert (found[name] != expected[name]).mean() < 0.02


def test_sums_beyond_fp16_survive(tmp_path):
    """Ones over 400 x 400 pixels: 160000, which is infinite in fp16."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["features"], name="conv"),
        onnx.helper.make_node("Reshape", ["features", "rows"], ["flat"], name="flat"),
        onnx.helper.make_node("Transpose", ["flat"], ["turned"], name="turn", perm=[0, 2, 1]),
        onnx.helper.make_node("MatMul", ["flat", "turned"], ["sums"], name="sums"),
        onnx.helper.make_node("MatMul", ["sums", "one"], ["y"], name="linear"),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w"),
        onnx.numpy_helper.from_array(np.array([0, 1, -1]), "rows"),
        onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "one"),
    ]
    x = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, "h", "w"))
    y = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1, 1))
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], constants)
    opset = [onnx.helper.make_opsetid("", 18)]
    halved = to_fp16(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))
    assert not nodes_by_type(halved, "Conv")[0]
    np.testing.assert_allclose(run(halved, {"x": np.ones((1, 1, 400, 400), np.float32)}, tmp_path)["y"], 160000)
