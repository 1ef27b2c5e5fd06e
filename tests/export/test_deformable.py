import warnings
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export.deformable import DEFORM_CONV_OPSET, lowest_opset, sample_deformable
from export.to_onnx import FORBIDDEN, OPSET
from model.deformable import DeformableConv2d


def network() -> nn.Sequential:
    """A stem, and a deformable convolution of each stride; offsets reach some pixels far, over the edges too."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, 8, 1),
        DeformableConv2d(8, 16, 3, 1, 1),
        nn.ReLU(),
        DeformableConv2d(16, 8, 3, 2, 2, 2),
    )
    for layer in layers:
        if isinstance(layer, DeformableConv2d):
            nn.init.normal_(layer.conv_offset.weight, std=0.1)
            nn.init.normal_(layer.conv_offset.bias, std=3.0)
    return layers.eval()


def export(layers: nn.Sequential, opset: int) -> onnx.ModelProto:
    batch, rows, columns = (torch.export.Dim(name, min=low, max=64) for name, low in (("b", 1), ("r", 2), ("c", 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            layers,
            (torch.randn(2, 3, 64, 96),),
            dynamo=True,
            dynamic_shapes=({0: batch, 2: 32 * rows, 3: 32 * columns},),
            opset_version=opset,
            verbose=False,
        )
    return program.model_proto


@pytest.fixture(scope="module", params=["DeformConv", "GridSample"])
def exported(request):
    layers = network()
    if request.param == "GridSample":
        sample_deformable(layers)
    return request.param, layers, export(layers, lowest_opset(layers, OPSET))


def test_only_the_operator_raises_the_opset(exported):
    operator, layers, graph = exported
    expected = DEFORM_CONV_OPSET if operator == "DeformConv" else OPSET
    assert lowest_opset(layers, OPSET) == expected
    assert lowest_opset(layers, 22) == 22
    assert lowest_opset(nn.Conv2d(3, 8, 3), OPSET) == OPSET
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", expected)]


def test_graph_is_valid_and_has_one_operator_a_layer(exported):
    operator, _, graph = exported
    onnx.checker.check_model(graph, full_check=True)
    counts = Counter(node.op_type for node in graph.graph.node)
    assert {name: counts[name] for name in ("DeformConv", "GridSample")} == {
        "DeformConv": 2 * (operator == "DeformConv"),
        "GridSample": 2 * (operator == "GridSample"),
    }
    assert not counts.keys() & (FORBIDDEN | {"Tile", "Expand", "GatherND"})


@pytest.mark.parametrize("exported", ["GridSample"], indirect=True)
def test_sampling_is_of_the_kind_that_engines_take(exported):
    _, _, graph = exported
    graph = onnx.shape_inference.infer_shapes(graph).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    for node in graph.node:
        if node.op_type == "GridSample":
            attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
            assert attributes == {"mode": b"bilinear", "padding_mode": b"zeros", "align_corners": 0}
            assert [ranks[name] for name in node.input] == [4, 4]


@pytest.mark.parametrize("shape", [(1, 3, 96, 160), (3, 3, 160, 64)])
def test_onnx_runtime_gives_pytorchs_numbers_on_other_sizes(exported, shape):
    _, layers, graph = exported
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        expected = layers(images).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_both_graphs_are_of_the_same_network():
    layers = network()
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = layers(images)
        sample_deformable(layers)
        torch.testing.assert_close(layers(images), expected, rtol=1e-4, atol=1e-5)
