"""Variants of a tiny network: random weights, real images, the real runtimes."""

import dataclasses
from io import StringIO

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from export import variants
from export.artifact import export_artifact, images_below
from export.command import Wishes, export, make_options
from export.errors import ExportError
from export.options import LIMITS, ExportOptions, Limit
from export.quantise import LADDER, calibration_inputs, quantise
from export.tensorrt_graph import for_tensorrt
from model.checkpoint import load, save
from model.knet import KNet
from service import artifact
from service.image import decode
from service.segmenter import Segmenter
from service.session import OnnxSession
from service.variants import open_session
from tests.export.conftest import IMAGES
from training.data.open import open_data

DATA = IMAGES.parents[1]
ALL = ExportOptions(precisions=("fp32", "bf16", "fp16", "int8"))


@pytest.fixture(scope="module")
def checkpoint(seeded_config, tmp_path_factory):
    """Of the data's categories."""
    torch.manual_seed(0)
    network = KNet(dataclasses.replace(seeded_config, categories=open_data(DATA, "train").categories)).eval()
    with torch.no_grad():
        for stage in network.stages:
            stage.class_branch.output.bias.fill_(1.0)
    folder = tmp_path_factory.mktemp("checkpoint")
    save(network, folder)
    return folder


def run(checkpoint, out, *, options=ALL, data=True):
    """The metadata, and what was printed."""
    said = StringIO()
    metadata = export_artifact(
        checkpoint,
        out,
        images_below(IMAGES)[:2],
        provenance={},
        console=Console(file=said, width=200),
        options=options,
        data=tuple(open_data(DATA, split) for split in ("train", "val")) if data else None,
    )
    return metadata, said.getvalue()


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """An artifact with all variants that a CPU runs: metadata and folder."""
    folder = tmp_path_factory.mktemp("repository") / "m" / "1"
    return run(checkpoint, folder)[0], folder


def test_each_variant_is_written_measured_and_runs(made):
    metadata, folder = made
    names = [variant.name for variant in metadata.variants]
    assert names == [
        "openvino-bf16",
        "onnxruntime-fp32",
        "openvino-fp32",
        "onnxruntime-fp16",
        "openvino-int8",
        "onnxruntime-int8",
    ]
    artifact.verify_files(folder, artifact.load(folder))
    files = {"artifact.json", *(variant.file for variant in metadata.variants)}
    assert {path.name for path in folder.iterdir()} == files
    image = decode(images_below(IMAGES)[0].read_bytes())
    for variant in metadata.variants:
        assert {"pixel_difference", "pq", "pq_reference"} <= set(variant.accuracy)
        assert Segmenter(metadata, open_session(folder, variant, threads=1)).segment(image).segments


def test_int8_keeps_kernel_head_stages_and_merge_in_float(made):
    _, folder = made
    graph = onnx.load(folder / "model.int8.onnx").graph
    from_int8 = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    quantised = [node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in from_int8]
    assert any(name.startswith("neck/") for name in quantised)
    assert not [name for name in quantised if name.startswith(("kernel_head/", "stages/", "merge/"))]


def test_signed_int8_is_what_tensorrt_takes(made, tmp_path):
    metadata, folder = made
    path = folder / "model.onnx"
    inputs = calibration_inputs(metadata, path, images_below(IMAGES)[:2])
    either, signed = (quantise(onnx.load(path), inputs, LADDER[1], signed=wanted) for wanted in (False, True))
    with pytest.raises(ExportError, match="TensorRT takes symmetric int8 alone"):
        for_tensorrt(either)
    graph = for_tensorrt(signed)
    zeros = {node.input[2] for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    types = {constant.name: constant.data_type for constant in graph.graph.initializer}
    assert zeros
    assert {types[name] for name in zeros} == {onnx.TensorProto.INT8}
    # It computes what the fp32 graph does, but for the rounding to 127 steps.
    scores = [
        OnnxSession(write(graph, tmp_path), threads=1).run(inputs[0])["score"],
        OnnxSession(path, threads=1).run(inputs[0])["score"],
    ]
    assert np.abs(scores[0] - scores[1]).max() < 0.1


def write(graph, folder):
    path = folder / "model.onnx"
    onnx.save(graph, path)
    return path


def test_a_variant_outside_its_limit_is_not_written_unless_forced(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(variants.LIMITS, "bf16", Limit(max_loss=-1.0))
    options = ExportOptions(precisions=("fp32", "bf16"))
    metadata, said = run(checkpoint, tmp_path / "m" / "1", options=options)
    assert [variant.name for variant in metadata.variants] == ["onnxruntime-fp32", "openvino-fp32"]
    assert "(at most -100.0)" in said
    metadata, _ = run(checkpoint, tmp_path / "m" / "2", options=ExportOptions(precisions=("bf16",), force=True))
    assert [(variant.name, variant.outside_limits) for variant in metadata.variants] == [
        ("openvino-bf16", True),
        ("onnxruntime-fp32", False),
    ]
    assert artifact.load(tmp_path / "m" / "2").variants[0].outside_limits


def test_without_validation_data_lower_precisions_are_reported_not_judged(exported, tmp_path):
    options = ExportOptions(precisions=("fp32", "bf16"))
    metadata, said = run(exported["semantic"].checkpoint, tmp_path / "m" / "1", options=options, data=False)
    assert "not judged: no validation data" in said
    assert metadata.variants[0].name == "openvino-bf16"


def test_a_model_that_scores_nothing_is_reported_not_judged(checkpoint, tmp_path):
    network = load(checkpoint)
    network.config = dataclasses.replace(network.config, fixed_stuff_score=0.0)  # no background either
    with torch.no_grad():
        for stage in network.stages:
            stage.class_branch.output.bias.fill_(-20.0)
    save(network, tmp_path / "checkpoint")
    metadata, said = run(tmp_path / "checkpoint", tmp_path / "m" / "1", options=ExportOptions(formats=("openvino",)))
    assert metadata.variants[0].accuracy["pq_reference"] == 0
    assert "not judged: PyTorch scores 0 on the data" in said
    assert "Warning: none of the images gave a segment" in said


def test_limits_are_the_projects():
    assert (LIMITS["bf16"].max_loss, LIMITS["fp16"].max_loss, LIMITS["int8"].max_loss) == (0.003, 0.003, 0.010)
    assert LIMITS["fp32"].must_agree


def test_a_precision_of_no_format_is_told():
    with pytest.raises(ValueError, match="precision bf16 is of format openvino, not of onnx"):
        ExportOptions(formats=("onnx",), precisions=("bf16",))
    assert make_options(Wishes(formats=("tensorrt",))).precisions == ("fp32", "fp16")
    assert make_options(Wishes()).precisions == ("fp32", "bf16")
    assert make_options(Wishes(confidence=True)).confidence
    with pytest.raises(ValueError, match="--format is 'ncnn'; legal: onnx, openvino, tensorrt"):
        make_options(Wishes(formats=("ncnn",)))


def test_a_fixed_size_is_a_constant_of_the_graph_and_a_dry_run_prints_what_builds_the_engine(
    exported, tmp_path, capsys
):
    out = tmp_path / "m" / "1"
    wishes = Wishes(formats=("tensorrt",), images=IMAGES, canvas="64x96", fixed_size=True, dry_run=True)
    export(exported["learned"].checkpoint, out, wishes)
    (image,) = (value for value in onnx.load(out / "model.onnx").graph.input if value.name == "image")
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:] == [64, 96, 3]
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "model.fp16.tensorrt.onnx" in line] == [
        "trtexec",
        "polygraphy",
    ]
    with pytest.raises(ValueError, match="fixed_size is for geometry fit"):
        export(exported["seeded"].checkpoint, tmp_path / "m" / "2", Wishes(images=IMAGES, fixed_size=True))
