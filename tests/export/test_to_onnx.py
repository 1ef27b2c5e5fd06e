from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from export.artifact import export_artifact, images_below
from export.errors import ExportError
from export.options import ExportOptions
from export.to_onnx import FORBIDDEN, round_weights
from export.variants import GRAPH
from model.knet import KNet
from model.served import ServedModel, make_served
from service import artifact
from service.session import OnnxSession
from training.serving_path import TorchSession

IMAGES = Path(__file__).parent.parent / "data" / "nuclei" / "images" / "train"


@pytest.fixture(params=["learned", "seeded", "instance", "semantic"])
def one(request, exported):
    return exported[request.param]


def test_graph_has_the_contracts_inputs_and_outputs(one):
    graph = onnx.load(one.folder / GRAPH).graph
    inputs = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.input
    }
    expected = {
        "image": np.uint8,
        "valid_size": np.int32,
    }
    if one.network.config.kind == "panoptic":
        expected |= {"score_threshold": np.float32, "overlap_threshold": np.float32}
    if one.network.config.normalisation == "image":
        expected |= {"pixel_mean": np.float32, "pixel_std": np.float32}
    assert inputs == {name: np.dtype(kind) for name, kind in expected.items()}
    assert [value.name for value in graph.output] == list(make_served(one.network).output_names)


def test_graph_has_no_operator_that_engines_refuse(one):
    operators = {node.op_type for node in onnx.load(one.folder / GRAPH).graph.node}
    assert not operators & FORBIDDEN
    assert "Einsum" not in operators


def test_graph_tells_nothing_of_the_machine_that_made_it(one):
    content = (one.folder / GRAPH).read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_weights_are_stored_as_fp16(one):
    graph = onnx.load(one.folder / GRAPH).graph
    sizes = {"half": 0, "float": 0}
    for value in graph.initializer:
        if len(value.dims) > 1 and value.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT):
            kind = "half" if value.data_type == onnx.TensorProto.FLOAT16 else "float"
            sizes[kind] += int(np.prod(value.dims))
    assert sizes["half"] > 50 * sizes["float"]


def test_sizes_and_batches_other_than_the_traced_ones_equal_pytorch(one):
    config = one.network.config
    reference, session = TorchSession(one.network), OnnxSession(one.folder / GRAPH, threads=1)
    rng = np.random.default_rng(0)
    sizes = [(1, 64, 96), (3, 128, 64)]
    if config.geometry == "shortest_edge":
        sizes.append((1, 32, 160))  # a long, thin image
    for batch, height, width in sizes:
        inputs = {
            "image": rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8),
            "valid_size": np.array([[height, width], [height - 9, width - 30], [40, 33]], np.int32)[:batch],
        }
        if config.kind == "panoptic":
            inputs |= {
                "score_threshold": np.array([0.3, 0.5, 0.7], np.float32)[:batch],
                "overlap_threshold": np.array([0.5, 0.1, 0.8], np.float32)[:batch],
            }
        if config.normalisation == "image":
            inputs |= {
                "pixel_mean": np.array([127, 90, 140], np.float32)[:batch],
                "pixel_std": np.array([70, 60, 50], np.float32)[:batch],
            }
        expected, found = reference.run(inputs), session.run(inputs)
        assert list(found) == list(expected)
        for name in {"id_map", "class_map"} & set(found):
            # Random weights make near-ties; nearly all pixels must agree all the same.
            assert (found[name] == expected[name]).mean() > 0.995
        for name in {"score", "mask_logits"} & set(found):
            np.testing.assert_allclose(found[name], expected[name], atol=2e-4 * max(1, np.abs(expected[name]).max()))


def test_artifact_describes_the_graph(one):
    metadata = artifact.load(one.folder)
    artifact.verify_files(one.folder, metadata)
    assert metadata.name == one.folder.parent.name
    config = one.network.config
    assert (metadata.kind, metadata.num_slots, metadata.merge) == (config.kind, config.num_slots, config.merge)
    assert metadata.variants[0].accuracy["pixel_difference"] <= 1e-3
    assert [category.name for category in metadata.categories] == [category.name for category in config.categories]


def test_existing_version_is_not_overwritten(one):
    with pytest.raises(ValueError, match=r"exists; versions are never overwritten: export to .*2"):
        export_artifact(one.checkpoint, one.folder, [one.folder], provenance={}, console=None)


def test_graph_that_answers_otherwise_is_refused_and_leaves_nothing_behind(one, tmp_path, monkeypatch):
    """A real fault: the graph of another network, whose masks are turned around."""

    def make_other(model: ServedModel, *, fixed_size: bool) -> onnx.ModelProto:
        graph = onnx.load(one.folder / GRAPH)
        for node in graph.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "Neg"
        return graph

    monkeypatch.setattr("export.artifact.make_graph", make_other)
    with pytest.raises(ExportError, match="does not answer as PyTorch does"):
        export_artifact(one.checkpoint, tmp_path / "m" / "1", images_below(IMAGES), provenance={}, console=Console())
    assert list((tmp_path / "m").iterdir()) == []


def test_rounding_leaves_vectors_and_moves_matrices_to_fp16(learned_config):
    network = KNet(learned_config)
    norm = network.kernel_head.localisation[1].weight.detach().clone()
    round_weights(network)
    matrix = network.stages[0].mask_branch.output.weight
    assert torch.equal(matrix, matrix.half().float())
    assert torch.equal(network.kernel_head.localisation[1].weight, norm)


def test_how_it_is_served_may_be_changed_when_it_is_exported(exported, tmp_path):
    changes = {"merge": "confident", "mask_quality": True, "geometry": "fit", "canvas_sizes": (96, 128), "kind": None}
    metadata = export_artifact(
        exported["learned"].checkpoint,
        tmp_path / "m" / "1",
        images_below(IMAGES),
        provenance={},
        console=Console(),
        options=ExportOptions(formats=("onnx",), precisions=("fp32",), half_storage=True),
        changes=changes,
    )
    assert (metadata.merge, metadata.mask_quality, metadata.geometry.size) == ("confident", True, (96, 128))
    graphs = [onnx.load(folder / GRAPH).graph for folder in (exported["learned"].folder, tmp_path / "m" / "1")]
    assert len(graphs[0].node) < len(graphs[1].node)


def test_images_that_give_no_segment_are_pointed_out(exported, tmp_path):
    said = StringIO()
    export_artifact(
        exported["instance"].checkpoint,
        tmp_path / "m" / "1",
        images_below(IMAGES)[:1],
        provenance={},
        console=Console(file=said, width=200),
        changes={"score_threshold": 1.0},
    )
    assert "none of the images gave a segment" in said.getvalue()
