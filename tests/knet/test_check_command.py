import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from knet.cli import app


@pytest.fixture
def data(tmp_path):
    """Six images with two classes."""
    folder = tmp_path / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        labels = np.zeros((40, 60), np.uint8)
        labels[:, 20 + number :] = 1
        cv2.imwrite(str(folder / "labels" / f"{number}.png"), labels)
    return folder


def run(data, out, *options):
    return CliRunner().invoke(app, ["check", str(data), "--out", str(out), *options], env={"COLUMNS": "80"})


def test_report_tables_and_pictures(data, tmp_path):
    result = run(data, tmp_path / "out")
    assert result.exit_code == 0, result.output
    for text in ("semantic PNG", "class 1", "geometry", "feature_stride", "60x40", "The data can be used"):
        assert text in result.output
    tables = [line for line in result.output.splitlines() if line.startswith(("│", "┃", "┏", "└"))]
    assert tables
    assert max(map(len, tables)) <= 80
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert report["kind"] == "semantic"
    assert sum(report["statistics"][split]["num_images"] for split in ("train", "val")) == 6
    assert {entry["setting"] for entry in report["suggestions"]} == {
        *("geometry", "scale", "feature_stride", "num_kernels")
    }
    assert cv2.imread(str(tmp_path / "out" / "images.png")).shape[1] > 320


def test_problems_exit_with_1_and_warnings_do_not(data, tmp_path):
    path = data / "images" / "1.png"
    (data / "images" / "0.png").write_bytes(path.read_bytes())
    result = run(data, tmp_path / "out")
    assert result.exit_code == 0
    assert "are the same image" in result.output.replace("is the same image as", "are the same image")
    path.write_bytes(path.read_bytes()[:200])
    result = run(data, tmp_path / "out")
    assert result.exit_code == 1
    assert "1.png" in result.output
    assert "The data cannot be used" in result.output
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert sum(map(len, report["problems"].values())) == 1


def test_what_cannot_be_opened_is_one_line_and_exit_code_1(data, tmp_path):
    (data / "labels" / "2.png").unlink()
    result = run(data, tmp_path / "out")
    assert result.exit_code == 1
    assert "2.png has no labels" in result.output


def test_description_elsewhere_names_the_classes(data, tmp_path):
    description = tmp_path / "mine.json"
    description.write_text(json.dumps({"categories": [{"name": "ground"}, {"name": "sky"}]}))
    result = run(data, tmp_path / "out", "--description", str(description))
    assert result.exit_code == 0
    assert "ground" in result.output
    assert "class 0" not in result.output


def test_splits_with_other_categories_are_a_problem_that_is_told(data, tmp_path):
    for split, names in (("train", ("soil", "weed")), ("val", ("soil",))):
        folder = tmp_path / "coco" / split
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((data / "images" / "0.png").read_bytes())
        document = {
            "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
            "images": [{"id": 1, "file_name": "0.png", "height": 40, "width": 60}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 0, "segmentation": [[1, 1, 20, 1, 20, 20]]}],
        }
        (folder / "_annotations.coco.json").write_text(json.dumps(document))
    result = run(tmp_path / "coco", tmp_path / "out")
    assert result.exit_code == 1
    assert "train and val have different categories" in result.output
    assert (tmp_path / "out" / "check.json").exists()


def test_a_set_without_training_images_is_looked_at_too(data, tmp_path):
    folder = tmp_path / "coco" / "val"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes((data / "images" / "0.png").read_bytes())
    document = {
        "categories": [{"id": 1, "name": "soil"}],
        "images": [{"id": 1, "file_name": "0.png", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 20, 1, 20, 20]]}],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(document))
    result = run(tmp_path / "coco", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "there are no images to train with" in result.output
    assert "Suggested" not in result.output
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert (report["kind"], list(report["statistics"]), report["suggestions"]) == ("instance", ["val"], [])
