"""Every configuration, official and ours, through `knet export` at a small canvas, and once through ONNX Runtime.

Official weights are the rule's, ours are random with classes as likely as not; thresholds are such that noise has
segments. With -s it prints a row of docs/export.md's table for each.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from export.official_names import expected_tensors, to_ours
from export.to_onnx import FORBIDDEN
from export.variants import GRAPH
from export.verify import compare_answers
from knet.cli import app
from model.ade20k import ade20k
from model.checkpoint import save
from model.coco import coco_instance, coco_panoptic
from model.config import KNetConfig
from model.knet import KNet
from model.official import OFFICIAL
from service import artifact
from service.segmenter import Segmenter
from service.session import OnnxSession
from training.recipes import DataFacts, nuclei, small_instance, small_panoptic, small_semantic
from training.serving_path import segmenter_of

pytestmark = pytest.mark.slow

SIZE = (128, 160)  # height and width of the canvas, which the image fills
WISHES = {
    "panoptic": {"score_threshold": 0.9, "overlap_threshold": 0.0},
    "instance": {"score_threshold": 0.5},
    "semantic": {},
}
OUR_WISHES = WISHES | {
    "panoptic": {"score_threshold": 0.3, "overlap_threshold": 0.0},
    "instance": {"score_threshold": 0.3},
}
OURS = {
    "nuclei": (nuclei, coco_panoptic()),
    "small_panoptic": (small_panoptic, coco_panoptic()),
    "small_instance": (small_instance, coco_instance()),
    "small_semantic": (small_semantic, ade20k()),
}


def official(name: str, official_weights) -> KNet:
    """With the weights of the rule."""
    config = OFFICIAL[name]()
    table = {key: one.shape for key, one in expected_tensors(config).items()}
    state = {key: torch.from_numpy(value) for key, value in official_weights.make_state(table).items()}
    network = KNet(config)
    network.load_state_dict(to_ours(state, config), strict=True)
    return network


def ours(name: str) -> KNet:
    """A recipe's network before its training, but for what would give no kernel a mask and a score."""
    recipe, categories = OURS[name]
    kind = "panoptic" if name == "nuclei" else name.removeprefix("small_")
    torch.manual_seed(0)
    network = KNet(recipe(DataFacts(kind=kind, categories=categories, num_images=100, image_size=SIZE)).model)
    with torch.no_grad():
        for parameter in network.kernel_head.parameters() if kind != "semantic" else ():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for stage in network.stages:
            if stage.class_branch is not None:
                stage.class_branch.output.bias.fill_(0.0)
    return network


@pytest.mark.parametrize("name", [*OFFICIAL, *OURS])
def test_it_is_exported_with_one_command_and_answers_as_pytorch_does(name, request):
    make: Callable[[], KNet] = (
        (lambda: official(name, request.getfixturevalue("official_weights")))
        if name in OFFICIAL
        else lambda: ours(name)
    )
    network = make().eval()
    with tempfile.TemporaryDirectory() as scratch:  # not tmp_path, which is kept: Swin-L has a gigabyte
        check(name, network, Path(scratch))


def check(name: str, network: KNet, scratch: Path) -> None:
    picture = photograph()
    cv2.imwrite(str(scratch / "a.png"), picture[..., ::-1])
    save(network, scratch / "checkpoint")
    out = scratch / "m" / "1"
    canvas = ["--canvas", "x".join(map(str, SIZE)), "--images", str(scratch / "a.png")]
    began = time.perf_counter()
    result = CliRunner().invoke(
        app, ["export", str(scratch / "checkpoint"), "--out", str(out), "--format", "onnx", *canvas]
    )
    seconds = time.perf_counter() - began
    assert result.exit_code == 0, result.output

    graph = onnx.load(out / GRAPH, load_external_data=False)
    operators = {node.op_type for node in graph.graph.node}
    assert not operators & FORBIDDEN
    network.config = small(network.config)
    metadata = artifact.load(out)
    wishes = WISHES[metadata.kind] if name in OFFICIAL else OUR_WISHES[metadata.kind]
    expected = segmenter_of(network).segment(picture, **wishes)
    found = Segmenter(metadata, OnnxSession(out / GRAPH)).segment(picture, **wishes)
    comparison = compare_answers(expected, found)
    print(  # noqa: T201
        f"| `{name}` | {metadata.kind} | {graph.opset_import[0].version} | {len(graph.graph.node)} | "
        f"{(out / GRAPH).stat().st_size / 1e6:.0f} | {comparison.segments} | {comparison.pixel_difference:.3%} | "
        f"{comparison.largest_score_difference:.1e} | {seconds:.0f} |"
    )
    assert comparison.segments > 1
    assert comparison.matched_segments == comparison.segments == len(found.segments)
    assert comparison.accepted


def small(config: KNetConfig) -> KNetConfig:
    """As `--canvas` changes it."""
    return dataclasses.replace(config, geometry="fit", canvas_sizes=SIZE, tile_overlap=0)


def photograph() -> np.ndarray:
    """Structure at every scale, (H, W, 3) RGB."""
    rng = np.random.default_rng(0)
    layers = [
        cv2.resize(rng.integers(0, 60, (side, side, 3)).astype(np.float32), SIZE[::-1]) for side in (4, 16, 64, 128)
    ]
    return sum(layers).clip(0, 255).astype(np.uint8)
