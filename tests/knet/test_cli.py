import json
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from knet import options
from knet.cli import app
from model.checkpoint import save
from model.knet import KNet
from service import schemas
from service.views import VIEWS

KEY = "a key of 16 bytes"


@pytest.fixture
def invoke():
    def call(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})

    return call


def check_files(out, image_path) -> dict:
    answer = json.loads((out / "cells.json").read_text())
    assert [segment["area"] for segment in answer["segments"]] == [252, 100, 1648]
    assert all("counts" in segment["segmentation"] for segment in answer["segments"])
    assert "overlay" not in answer
    picture = np.asarray(Image.open(out / "cells.png"))
    original = np.asarray(Image.open(image_path))
    assert picture.shape == original.shape
    assert (picture != original).any()
    return answer


def test_segment_asks_a_running_server(invoke, nuclei_server, image_path, tmp_path):
    out = tmp_path / "out" / "deep"
    result = invoke("segment", image_path, "--url", nuclei_server, "--api-key", KEY, "--out", out)
    assert result.exit_code == 0, result.output
    check_files(out, image_path)
    assert "3 segments: 2 nucleus, 1 background; 40 x 50 pixels" in result.stdout
    assert "0.750" in result.stdout
    assert str(out / "cells.json") in result.stdout
    assert str(out / "cells.png") in result.stdout


def test_segment_starts_and_stops_a_server_of_its_own(invoke, nuclei_repository, image_path, tmp_path, monkeypatch):
    monkeypatch.setenv("KNET_REPOSITORY", str(nuclei_repository))
    monkeypatch.setenv("KNET_HOST", "0.0.0.0")  # of `knet serve`, and no business of this one
    before = set(multiprocessing.active_children())
    result = invoke("segment", image_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    check_files(tmp_path / "out", image_path)
    assert set(multiprocessing.active_children()) <= before


def test_segment_takes_a_repository(invoke, nuclei_repository, image_path, tmp_path):
    answers = tmp_path / "new" / "answers.jsonl"
    result = invoke("segment", image_path, "--repository", nuclei_repository, "--version", 1, "--json", answers)
    assert result.exit_code == 0, result.output
    assert json.loads(answers.read_text())["version"] == "1"


def test_table_shows_the_best_segments_and_the_total(invoke, nuclei_server, tmp_path):
    image = np.zeros((32, 60, 3), np.uint8)
    image[:, :55, 0] = np.arange(55) // 5 + 1
    path = tmp_path / "many.png"
    Image.fromarray(image).save(path)
    options = ("--score-threshold", 0, "--overlap-threshold", 0, "--task", "instance")
    result = invoke("segment", path, "--url", nuclei_server, "--api-key", KEY, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "11 segments (the first 10 shown): 6 nucleus, 5 cell" in result.stdout
    assert "Warning: the image used nearly all" in result.stdout


def test_answers_go_to_standard_output_and_nothing_else(invoke, nuclei_server, image_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.png"
    other.write_bytes(image_path.read_bytes())
    options = ("--format", "polygon", "--categories", "nucleus,9", "--version", "1")
    result = invoke("segment", image_path, other, "--url", nuclei_server, "--api-key", KEY, "--json", "-", *options)
    assert result.exit_code == 0, result.output
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["segments"] == second["segments"]
    assert [segment["segmentation"]["type"] for segment in first["segments"]] == ["MultiPolygon"] * 3
    assert first["version"] == "1"
    assert not (tmp_path / "demo").exists()


def test_several_images_have_files_of_their_own(invoke, nuclei_server, image_path, tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(image_path.read_bytes())
    common = ("--url", nuclei_server, "--api-key", KEY, "--out", tmp_path / "out")
    result = invoke("segment", image_path, other, *common)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cells.json", "cells.png", "other.json", "other.png",
    ]  # fmt: skip
    result = invoke("segment", image_path, "--format", "huggingface", *common)
    assert result.exit_code == 0, result.output
    assert next(entry["label"] for entry in json.loads((tmp_path / "out" / "cells.json").read_text())) == "nucleus"
    other.write_bytes(b"no image")
    result = invoke("segment", image_path, other, *common)
    assert result.exit_code == 1
    assert f"knet: {other}: Image format not supported" in result.stderr.replace("\n", " ")
    (tmp_path / "deep").mkdir()
    twin = tmp_path / "deep" / "cells.jpg"
    twin.write_bytes(image_path.read_bytes())
    result = invoke("segment", image_path, twin, *common)
    assert result.exit_code == 1
    assert "several images are named cells" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "cats"), "there is nuclei"),
        (("--categories", "cats"), "cats"),
    ],
)
def test_refusals_are_told_in_one_line(invoke, nuclei_server, image_path, tmp_path, options, words):
    result = invoke(
        "segment", image_path, "--url", nuclei_server, "--api-key", KEY, "--out", tmp_path / "out", *options
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("knet: ")
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("option", "value", "legal"),
    [
        ("--task", "depth", "'panoptic', 'instance', 'semantic'"),
        ("--format", "jpeg", "'rle', 'polygon', 'png', 'overlay', 'huggingface'"),
        ("--score-threshold", 2, "less than or equal to 1"),
        ("--views", 4, "less than or equal to 3"),
    ],
)
def test_what_no_server_takes_is_refused_before_one_is_started(invoke, image_path, option, value, legal):
    result = invoke("segment", image_path, option, value)
    assert result.exit_code == 2
    words = " ".join(result.stderr.replace("│", "").split())
    assert f"'{option}'" in words
    assert legal in words


def test_the_command_line_knows_what_the_server_takes():
    assert (options.Task, options.Format) == (schemas.Task, schemas.Format)
    views = next(parameter for parameter in get_command(app).commands["segment"].params if parameter.name == "views")
    assert (views.min, views.max) == (1, len(VIEWS))


def test_an_image_is_not_written_over(invoke, nuclei_server, image_path):
    original = image_path.read_bytes()
    common = ("--url", nuclei_server, "--api-key", KEY, "--out", image_path.parent)
    result = invoke("segment", image_path, *common)
    assert result.exit_code == 1
    assert f"written over {image_path}: name another folder with --out" in result.stderr
    assert image_path.read_bytes() == original
    result = invoke("segment", image_path, *common, "--format", "rle")  # has no picture
    assert result.exit_code == 0, result.output
    assert image_path.read_bytes() == original


def test_brackets_in_a_name_are_shown(invoke, nuclei_server, image_path, tmp_path):
    image = image_path.rename(tmp_path / "cells[copy].png")
    result = invoke("segment", image, "--url", nuclei_server, "--api-key", KEY, "--out", tmp_path / "a[" / "b]")
    assert result.exit_code == 0, result.output
    assert f"Answer:  {tmp_path / 'a[' / 'b]' / 'cells[copy].json'}" in result.stdout


def test_serve_refuses_what_is_unsafe_or_missing(invoke, tmp_path):
    open_server = invoke("serve", "--host", "0.0.0.0")
    assert open_server.exit_code == 1
    assert "KNET_API_KEYS" in open_server.stderr
    no_models = invoke("serve", "--repository", tmp_path)
    assert no_models.exit_code == 1
    assert "no model in" in no_models.stderr


def test_a_file_that_is_no_official_checkpoint_is_told_in_one_line(invoke, tmp_path):
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}}, tmp_path / "other.pth")
    result = invoke("import", tmp_path / "other.pth", "--out", tmp_path / "checkpoint")
    assert result.exit_code == 1
    assert "fits no official configuration: the nearest, knet_s3_r50_fpn_1x_coco, 501 missing: " in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    "canvas", ["801", "64,", "800x", "axb", "-32x32", "٣٢x٣٢", "800x1200", "0x32", "64x4128", "999968x32"]
)
def test_a_canvas_is_a_height_and_a_width(invoke, tmp_path, learned_config, canvas):
    save(KNet(learned_config), tmp_path / "checkpoint")
    result = invoke("export", tmp_path / "checkpoint", "--out", tmp_path / "m" / "1", f"--canvas={canvas}")
    assert result.exit_code == 1
    assert "legal: " in result.stderr
    assert not (tmp_path / "m").exists()


def test_missing_extra_is_told_with_the_command_that_installs_it():
    code = """
import sys
sys.modules["onnxruntime"] = sys.modules["uvicorn"] = None
from knet.cli import app
app(["serve"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install '.[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy():
    code = """
import sys
from knet.cli import app
try:
    app(["--help"])
except SystemExit:
    print(sorted({"torch", "cv2", "fastapi", "onnxruntime", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "knet", "--help"], capture_output=True, text=True, check=True)
    assert "segment" in done.stdout
    assert "serve" in done.stdout


def test_bundle_writes_an_archive_and_tells_what_cannot_be_bundled(invoke, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_artifact(tmp_path / "repository")
    model = tmp_path / "repository" / "tiny" / "1"
    result = invoke("bundle", model, "--target", "arm64")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "tiny-1-arm64.tar.gz").stat().st_size > 1000
    again = invoke("bundle", model, "--target", "arm64")
    assert again.exit_code == 1
    assert "exists" in again.stderr
    unknown = invoke("bundle", model, "--target", "arm64", "--variant", "abacus-fp32", "--out", tmp_path / "b.tar.gz")
    assert unknown.exit_code == 1
    assert "onnxruntime-fp32" in unknown.stderr
