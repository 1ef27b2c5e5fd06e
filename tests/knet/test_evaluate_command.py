"""`knet evaluate` on artifacts and servers of each kind, whose answers can be read off the images."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from knet.cli import app
from knet.client import KNetClient
from model.checkpoint import save
from model.knet import KNet
from service import rle
from service.artifact import Geometry, Variant
from service.artifact import save as save_artifact
from service.server import background
from service.settings import Settings

# Ids other than the tiny artifacts' own; their order is another, too.
CATEGORIES = [
    {"id": 1, "name": "nucleus", "isthing": 1},
    {"id": 2, "name": "cell", "isthing": 1},
    {"id": 3, "name": "background", "isthing": 0},
]
ID = {entry["name"]: entry["id"] for entry in CATEGORIES}
LARGE = (100, 150)  # more than one tile


@pytest.fixture(scope="module")
def repository(tiny, tmp_path_factory) -> Path:
    """Models tiny-panoptic, tiny-instance and tiny-semantic."""
    folder = tmp_path_factory.mktemp("repository")
    for kind in ("panoptic", "instance", "semantic"):
        geometry = Geometry(mode="fit", size=(64, 64)) if kind == "instance" else None
        tiny.write_artifact(folder, kind=kind, name=f"tiny-{kind}", geometry=geometry)
    return folder


@pytest.fixture(scope="module")
def server(repository) -> Iterator[str]:
    with background(Settings(repository=repository, port=0, api_keys=())) as url:
        with KNetClient(url) as client:
            client.wait_ready()
        yield url


@pytest.fixture
def invoke():
    def call(*arguments: object):
        return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "80"})

    return call


def save_image(path: Path, red: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([red, red, red], axis=-1).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def panoptic_data(tmp_path_factory) -> Path:
    """Two images of slots 3, 7 (nucleus) and 4 (cell) on 12 (background); in the second one nucleus is a miss."""
    folder = tmp_path_factory.mktemp("panoptic")
    images, annotations = [], []
    for number, (height, width) in enumerate([(50, 40), LARGE]):
        red = np.full((height, width), 12)
        red[4:14, 6:16], red[20:30, 20:34], red[34:44, 2:20] = 3, 4, 7
        classes = {3: "nucleus", 4: "cell", 7: "nucleus", 12: "background"}
        truth = red.copy()
        if number == 1:
            red[4:14, 6:16] = 12  # nothing is to be seen of the first nucleus
        name = f"{number}.png"
        save_image(folder / "images" / "val" / name, red)
        path = folder / "annotations" / "panoptic_val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([truth, 0 * truth, 0 * truth], axis=-1).astype(np.uint8)).save(path)
        images.append({"id": number, "file_name": name, "height": height, "width": width, "group": f"size {width}"})
        segments = [
            {"id": slot, "category_id": ID[of], "iscrowd": 0, "area": int((truth == slot).sum())}
            for slot, of in classes.items()
        ]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    document = {"categories": CATEGORIES, "images": images, "annotations": annotations}
    (folder / "annotations" / "panoptic_val.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def instance_data(tmp_path_factory) -> Path:
    """Masks 0 (a nucleus and, with a lower score, a cell), 1 (a cell) and 2 (a nucleus); 0 and 1 overlap."""
    folder = tmp_path_factory.mktemp("instances")
    masks = np.zeros((3, 64, 64), np.int64)
    masks[0, 4:24, 4:24], masks[1, 12:30, 12:40], masks[2, 40:60, 10:50] = 1, 1, 1
    red = masks[0] + 2 * masks[1] + 4 * masks[2]
    save_image(folder / "val2017" / "0.png", red)
    annotations = [
        {"id": number, "image_id": 0, "category_id": ID[name], "iscrowd": 0, "area": int(mask.sum()),
         "segmentation": {"size": [64, 64], "counts": rle.encode(mask, [1])[0]}, "bbox": [0, 0, 1, 1]}
        for number, (mask, name) in enumerate(zip(masks, ("nucleus", "cell", "nucleus"), strict=True), start=1)
    ]  # fmt: skip
    images = [{"id": 0, "file_name": "0.png", "height": 64, "width": 64}]
    document = {"categories": CATEGORIES[:2], "images": images, "annotations": annotations}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def semantic_data(tmp_path_factory) -> Path:
    """Classes background, cell and glass, with ignored pixels."""
    folder = tmp_path_factory.mktemp("semantic")
    for split in ("train", "val"):
        red = np.zeros(LARGE, np.int64)
        red[10:30], red[40:80, 20:] = 1, 2
        save_image(folder / "images" / split / "0.png", red)
        labels = red.copy()
        labels[:5] = 255
        labels[20:30] = 0  # half of the cell is wrong
        (folder / "labels" / split).mkdir(parents=True)
        Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / split / "0.png")
    names = ("background", "cell", "glass")
    description = {
        "format": "semantic",
        "categories": [{"name": name, "value": value} for value, name in enumerate(names)],
        "ignore_index": 255,
    }
    (folder / "data.json").write_text(json.dumps(description))
    return folder


def scored(result, out: Path) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


@pytest.mark.parametrize("served", [False, True])
def test_panoptic(invoke, repository, server, panoptic_data, tmp_path, served):
    out = tmp_path / "scores.json"
    model = ("tiny-panoptic", "--url", server) if served else (repository / "tiny-panoptic" / "1",)
    result = invoke(*model, "--data", panoptic_data, "--out", out)
    scores = scored(result, out)
    assert scores["all"]["rq_things"] == pytest.approx((1 + 3 / 3.5) / 2)  # nucleus: one of four missed
    assert scores["all"]["ap50_pooled"] == pytest.approx(5 / 6)
    assert scores["groups"]["size 40"]["pq"] == 1
    assert scores["classes"]["cell"]["pq"] == 1
    assert [image["file"] for image in scores["images"]] == ["0.png", "1.png"]
    assert (scores["kind"], scores["format"], scores["split"]) == ("panoptic", "COCO panoptic", "val")
    assert "size 150" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80


@pytest.mark.parametrize("served", [False, True])
def test_instances(invoke, repository, server, instance_data, tmp_path, served):
    out = tmp_path / "scores.json"
    model = ("tiny-instance", "--url", server) if served else (repository / "tiny-instance" / "1",)
    scores = scored(invoke(*model, "--data", instance_data, "--out", out), out)
    # Mask 0 is answered as a cell, too, with a lower score than that of the cell that is there.
    assert scores["main"] == {"mask_ap": pytest.approx(1)}
    assert scores["all"]["ap50_pooled"] == pytest.approx(3 / 4)
    assert scores["classes"]["nucleus"]["ap50"] == 1


@pytest.mark.parametrize("served", [False, True])
def test_semantic(invoke, repository, server, semantic_data, tmp_path, served):
    out = tmp_path / "scores.json"
    model = ("tiny-semantic", "--url", server) if served else (repository / "tiny-semantic" / "1",)
    scores = scored(invoke(*model, "--data", semantic_data, "--out", out), out)
    assert scores["classes"]["cell"] == {"iou": pytest.approx(1 / 2)}
    assert scores["classes"]["glass"] == {"iou": 1}
    assert scores["all"]["pixel_accuracy"] == pytest.approx(1 - 10 / 95)
    assert scores["main"]["miou"] == pytest.approx(np.mean([entry["iou"] for entry in scores["classes"].values()]))


def test_instance_models_are_scored_on_the_things_of_panoptic_data(invoke, repository, panoptic_data, tmp_path):
    out = tmp_path / "scores.json"
    scores = scored(invoke(repository / "tiny-instance" / "1", "--data", panoptic_data, "--out", out), out)
    assert 0 <= scores["main"]["mask_ap"] <= 1
    assert "pq" not in scores["all"]


def test_checkpoints_are_scored_too(invoke, learned_config, panoptic_data, tmp_path):
    categories = [
        replace(category, name=name)
        for category, name in zip(learned_config.categories, ("cell", "nucleus", "background", "glass"), strict=True)
    ]
    save(KNet(replace(learned_config, categories=tuple(categories))), tmp_path / "checkpoint")
    out = tmp_path / "scores.json"
    result = invoke(tmp_path / "checkpoint", "--data", panoptic_data, "--out", out, "--max-images", 1)
    assert len(scored(result, out)["images"]) == 1
    assert "the data does not have glass" in result.stdout


def test_the_worst_images_are_drawn(invoke, repository, panoptic_data, tmp_path):
    pictures = tmp_path / "pictures"
    model = repository / "tiny-panoptic" / "1"
    result = invoke(model, "--data", panoptic_data, "--worst", 1, "--pictures", pictures)
    assert result.exit_code == 0, result.output
    assert [path.name for path in pictures.iterdir()] == ["001_1.png"]
    alone = invoke(model, "--data", panoptic_data, "--worst", 1)
    assert alone.exit_code == 1
    assert "--worst and --pictures go together" in alone.stderr


def test_a_variant_is_chosen_by_its_name(invoke, tiny, panoptic_data, tmp_path):
    metadata = tiny.write_artifact(tmp_path)
    folder = tmp_path / "tiny" / "1"
    plan = Variant(runtime="tensorrt", precision="fp16", file="model.engine", sha256="0" * 64)
    save_artifact(metadata.model_copy(update={"variants": (plan, *metadata.variants)}), folder)
    for options in ((), ("--variant", "onnxruntime-fp32")):
        assert invoke(folder, "--data", panoptic_data, *options).exit_code == 0
    for name, reason in (
        ("tensorrt-fp16", "tiny/1 cannot run here: tensorrt-fp16: "),
        ("other", "tiny/1 has no variant 'other'; legal: tensorrt-fp16, onnxruntime-fp32"),
    ):
        result = invoke(folder, "--data", panoptic_data, "--variant", name)
        assert result.exit_code == 1
        assert reason in result.stderr


def test_what_does_not_fit_is_told_in_one_line(invoke, tiny, repository, panoptic_data, semantic_data, tmp_path):
    result = invoke(repository / "tiny-semantic" / "1", "--data", panoptic_data)
    assert result.exit_code == 1
    assert "categories that tiny-semantic does not know: nucleus" in result.stderr
    result = invoke(repository / "tiny-instance" / "1", "--data", semantic_data)
    assert "is of kind instance and cannot be scored on" in result.stderr
    result = invoke(tmp_path, "--data", panoptic_data)
    assert "neither a checkpoint" in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_model_of_a_server_is_told_with_what_there_is(invoke, server, panoptic_data):
    result = invoke("cats", "--url", server, "--data", panoptic_data)
    assert result.exit_code == 1
    assert "there is no model cats" in result.stderr


def test_a_version_is_of_a_server(invoke, repository, server, panoptic_data):
    named = invoke("tiny-panoptic", "--url", server, "--version", "1", "--data", panoptic_data)
    assert named.exit_code == 0, named.output
    unknown = invoke("tiny-panoptic", "--url", server, "--version", "7", "--data", panoptic_data)
    assert unknown.exit_code == 1
    assert "no version '7' on this server; legal: 1" in unknown.stderr
    folder = invoke(repository / "tiny-panoptic" / "1", "--version", "1", "--data", panoptic_data)
    assert folder.exit_code == 1
    assert "--version is of a server's model" in folder.stderr


def test_data_that_is_not_there_is_a_command_line_that_is_wrong(invoke, repository, tmp_path):
    result = invoke(repository / "tiny-panoptic" / "1", "--data", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_scores_go_to_standard_output_and_nothing_else(invoke, repository, panoptic_data):
    result = invoke(repository / "tiny-panoptic" / "1", "--data", panoptic_data, "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kind"] == "panoptic"
    assert "background" in result.stderr
