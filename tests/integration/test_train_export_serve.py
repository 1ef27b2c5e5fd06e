"""The whole chain on real images: train, checkpoint, artifact, server, HTTP, RLE."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from knet.client import KNetClient
from knet.evaluate import local_segmenter
from model.config import BackboneConfig, knet_nuclei
from service.image import decode
from service.server import background
from service.settings import Settings
from training.augment import AugmentConfig
from training.data.open import open_data
from training.engine import Devices, make_fabric
from training.recipes import DataFacts, nuclei
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "nuclei"


def small_config(train):
    """The nuclei recipe on a network that trains in seconds."""
    model = replace(
        knet_nuclei(train.categories),
        backbone=BackboneConfig(name="test_efficientnet", levels=(0, 1, 2, 3, 4)),
        fpn_channels=16,
        channels=32,
        ffn_channels=32,
        num_kernels=60,
        num_training_kernels=40,
        canvas_sizes=(256, 320, 384),
    )
    return replace(
        nuclei(DataFacts.of(train)),
        model=model,
        augment=AugmentConfig(crop_size=96),
        pretrained=False,
        steps=20,
        batch_size=4,
        learning_rate=5e-3,
        warmup_steps=2,
        forced_seeds_until=1.0,
        precision="fp32",
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("checkpoint")
    train = open_data(DATA, "train")
    assert len(train.records) == 4
    assert run(small_config(train), out)
    return out


def run(config, out) -> bool:
    fabric = make_fabric(Devices(accelerator="cpu"), config.precision)
    return Trainer(config, open_data(DATA, "train"), open_data(DATA, "val"), out, fabric).run()


def run_knet(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "knet", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def repository(checkpoint, tmp_path_factory) -> Path:
    repository = tmp_path_factory.mktemp("models")
    run_knet("export", checkpoint, "--out", repository / "tiny" / "1", "--images", DATA / "images" / "val")
    return repository


def test_the_loss_falls_within_twenty_steps(checkpoint):
    with (checkpoint / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 20
    totals = [float(row["total"]) for row in rows]
    # Each step sees other crops: the means of five tell what one does not.
    assert sum(totals[-5:]) < 0.75 * sum(totals[:5])


def test_served_masks_are_those_of_the_checkpoint_at_the_posted_size(checkpoint, repository):
    train = open_data(DATA, "train")
    reference = local_segmenter(checkpoint)
    settings = Settings(repository=repository, port=0, api_keys=())
    with background(settings) as url, KNetClient(url) as client:
        client.wait_ready(timeout=60)
        for record in train.records:
            content = record.image_path.read_bytes()
            answer = client.segment(content, model="tiny", score_threshold=0.05)
            expected = reference.segment(decode(content), score_threshold=0.05)
            masks = [coco_mask.decode(segment["segmentation"]).astype(bool) for segment in answer["segments"]]
            assert all(mask.shape == (record.height, record.width) for mask in masks)
            assert [int(mask.sum()) for mask in masks] == [segment["area"] for segment in answer["segments"]]
            served = np.zeros(expected.id_map.shape, bool)
            for mask in masks:
                assert not (served & mask).any()  # panoptic: no pixel has two segments
                served |= mask
            # The checkpoint's weights are not rounded to fp16, the artifact's are: nearly all pixels agree.
            assert (served == (expected.id_map > 0)).mean() > 0.99


def test_artifact_and_checkpoint_score_alike(checkpoint, repository, tmp_path):
    for model, name in ((checkpoint, "checkpoint.json"), (repository / "tiny" / "1", "artifact.json")):
        run_knet("evaluate", model, "--data", DATA, "--out", tmp_path / name)
    scores = [(tmp_path / name).read_text() for name in ("checkpoint.json", "artifact.json")]
    first, second = (json.loads(text)["all"]["pq_stuff"] for text in scores)
    assert first == pytest.approx(second, abs=0.02)


def test_a_finished_run_is_not_trained_again(checkpoint):
    before = (checkpoint / "log.csv").read_text()
    run(small_config(open_data(DATA, "train")), checkpoint)
    assert (checkpoint / "log.csv").read_text() == before


def test_other_configuration_in_the_same_folder_is_refused(checkpoint, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(checkpoint, out)
    config = replace(small_config(open_data(DATA, "train")), learning_rate=0.5)
    with pytest.raises(ValueError, match="differs in learning_rate"):
        run(config, out)
