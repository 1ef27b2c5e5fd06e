"""The optional output of semantic graphs: how sure the network is of each pixel."""

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console

from export.artifact import export_artifact, images_below
from export.options import ExportOptions
from export.verify import compare_answers
from model.checkpoint import load
from service import artifact
from service.answers import Wish, document
from service.image import decode
from service.segmenter import Segmenter
from service.variants import open_session
from tests.export.conftest import IMAGES
from training.serving_path import TorchSession, segmenter_of

OPTIONS = ExportOptions(precisions=("fp32", "bf16"), confidence=True)
WISH = Wish(
    task="semantic",
    format="rle",
    picture_only=False,
    class_indices=None,
    score_threshold=None,
    overlap_threshold=None,
)


@pytest.fixture(scope="module")
def made(exported, tmp_path_factory):
    """An artifact with confidence: metadata and folder."""
    folder = tmp_path_factory.mktemp("repository") / "m" / "1"
    images = images_below(IMAGES)[:2]
    checkpoint = exported["semantic"].checkpoint
    return export_artifact(checkpoint, folder, images, provenance={}, console=Console(), options=OPTIONS), folder


def test_it_is_the_probability_of_the_class_that_is_chosen(exported):
    network = load(exported["semantic"].checkpoint)
    inputs = {
        "image": np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8),
        "valid_size": np.array([[64, 96], [64, 96]], np.int32),
    }
    plain, confident = (TorchSession(network, confidence=wanted).run(inputs) for wanted in (False, True))
    np.testing.assert_array_equal(plain["class_map"], confident["class_map"])
    num_classes = network.config.num_classes
    assert confident["confidence"].shape == confident["class_map"].shape
    assert confident["confidence"].dtype == np.float32
    assert (confident["confidence"] >= 1 / num_classes).all()
    assert (confident["confidence"] <= 1).all()
    assert confident["confidence"].std() > 0


def test_it_is_in_the_graph_and_in_the_metadata(made):
    metadata, folder = made
    assert metadata.confidence
    assert artifact.load(folder) == metadata
    assert [value.name for value in onnx.load(folder / "model.onnx").graph.output] == ["class_map", "confidence"]


def test_answers_carry_it_as_the_classes_scores(made, exported):
    metadata, folder = made
    image = decode(images_below(IMAGES)[0].read_bytes())
    with torch.inference_mode():
        expected = segmenter_of(load(exported["semantic"].checkpoint), confidence=True).segment(image)
    for variant in metadata.variants:
        found = Segmenter(metadata, open_session(folder, variant, threads=1)).segment(image)
        comparison = compare_answers(expected, found)
        assert comparison.largest_score_difference < (1e-3 if variant.precision == "fp32" else 0.02)
        scores = [segment["score"] for segment in document(image, found, WISH, metadata)["segments"]]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score < 1 for score in scores)


def test_other_kinds_have_none(exported, tmp_path):
    with pytest.raises(ValueError, match="confidence is an output of kind semantic, not of instance"):
        export_artifact(
            exported["instance"].checkpoint,
            tmp_path / "m" / "1",
            images_below(IMAGES),
            provenance={},
            console=Console(),
            options=OPTIONS,
        )
