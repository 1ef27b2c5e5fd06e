"""From a .pth file of the official form to masks over HTTP, for four official configurations at their real size.

The weights are the rule's, so that the masks are noise; the route is real.
"""

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from export.artifact import export_artifact, images_below
from export.options import ExportOptions
from export.variants import GRAPH
from knet.cli import app
from knet.client import KNetClient
from service import rle
from service.artifact import load as load_artifact
from service.image import decode
from service.segmenter import Segmenter
from service.server import background
from service.session import OnnxSession
from service.settings import Settings

pytestmark = pytest.mark.slow

# Configuration, and the form of deformable convolutions.
ROUTES = [
    ("knet_s3_r50_fpn_1x_coco-panoptic", "operator"),
    ("knet_s3_r50_fpn_1x_coco", "operator"),
    ("knet_s3_r101_dcn-c3-c5_fpn_ms-3x_coco-panoptic", "operator"),
    ("knet_s3_r101_dcn-c3-c5_fpn_ms-3x_coco-panoptic", "grid_sample"),
    ("knet_s3_upernet_r50-d8_80k_adamw_ade20k", "operator"),
]
WISHES = {"panoptic": {"score_threshold": 0.9, "overlap_threshold": 0.0}, "instance": {"score_threshold": 0.5}}


@pytest.fixture(params=ROUTES, ids="-".join)
def repository(request, official_weights, parity_folder, tmp_path):
    """A repository with one model, `official`, imported and exported by the commands' own code."""
    name, deformable = request.param
    table = official_weights.read_keys(parity_folder / "keys" / f"{name}.tsv")
    state = {key: torch.from_numpy(value) for key, value in official_weights.make_state(table).items()}
    torch.save({"meta": {"exp_name": f"{name}.py"}, "state_dict": state}, tmp_path / "official.pth")
    result = CliRunner().invoke(app, ["import", str(tmp_path / "official.pth"), "--out", str(tmp_path / "checkpoint")])
    assert result.exit_code == 0, result.output
    assert name in result.output
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(photograph(600, 900))
    export_artifact(
        tmp_path / "checkpoint",
        tmp_path / "repository" / "official" / "1",
        images_below(images),
        provenance={},
        console=Console(),
        options=ExportOptions(formats=("onnx",), precisions=("fp32",), deformable=deformable),
    )
    return tmp_path / "repository"


def photograph(height: int, width: int) -> bytes:
    """A PNG file of that size with structure at every scale."""
    rng = np.random.default_rng(height)
    picture = sum(
        cv2.resize(rng.integers(0, 60, (side, side, 3)).astype(np.float32), (width, height))
        for side in (4, 16, 64, 256)
    )
    return cv2.imencode(".png", picture.clip(0, 255).astype(np.uint8))[1].tobytes()


def test_an_imported_checkpoint_is_exported_and_served(repository):
    folder = repository / "official" / "1"
    metadata = load_artifact(folder)
    local = Segmenter(metadata, OnnxSession(folder / GRAPH))
    wishes = WISHES.get(metadata.kind, {})
    with background(Settings(repository=repository, port=0)) as url, KNetClient(url, timeout=120) as client:
        client.wait_ready(300)
        for size in ((800, 1216), (512, 512)):
            content = photograph(*size)
            answer = client.segment(content, model="official", **wishes)
            expected = local.segment(decode(content), **wishes)
            assert answer["task"] == metadata.kind
            assert len(answer["segments"]) == len(expected.segments) > 1
            counts = getattr(expected, "counts", None) or rle.encode(
                expected.id_map, [segment.id for segment in expected.segments]
            )
            assert [segment["segmentation"]["counts"] for segment in answer["segments"]] == list(counts)
            assert all(segment["segmentation"]["size"] == list(size) for segment in answer["segments"])
