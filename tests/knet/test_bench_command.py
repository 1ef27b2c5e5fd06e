"""What `knet bench` measures; never how fast it is."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from knet.cli import app

KEY = "a key of 16 bytes"


@pytest.fixture
def invoke():
    def call(*arguments: object):
        return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "140"})

    return call


def test_each_variant_and_batch_is_measured_on_real_images(invoke, nuclei_repository, image_path, tmp_path):
    out = tmp_path / "bench.json"
    options = ("--images", image_path, "--batch", 3, "--batch", 1, "--repeats", 3, "--engine-threads", 1)
    result = invoke("--repository", nuclei_repository, *options, "--json", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    figures = json.loads(out.read_text())
    assert (figures["model"], figures["version"], figures["threads"]) == ("nuclei", "2", 1)
    assert figures["images"] == [str(image_path)]
    assert figures["processor"]
    (variant,) = figures["variants"]
    assert variant["variant"] == "onnxruntime-fp32"
    assert variant["start_s"] > 0
    assert 0 < variant["image_p50_ms"] <= variant["image_p95_ms"]
    assert [line["batch"] for line in variant["batches"]] == [1, 3]
    for line in variant["batches"]:
        assert line["canvas"] == [64, 64]  # the least that holds 50 x 40 pixels
        assert 0 < line["p50_ms"] <= line["p95_ms"]
        assert line["canvases_per_s"] > 0
        assert line["peak_mb"] > 10


def test_the_table_names_the_machine(invoke, nuclei_repository):
    result = invoke("--repository", nuclei_repository, "--version", 1, "--batch", 1, "--repeats", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("nuclei/1 on ")
    assert "onnxruntime-fp32" in result.stdout
    assert "64x64 pixels" in result.stdout


def test_a_variant_that_fails_is_told_beside_the_others(invoke, tiny, tmp_path):
    tiny.write_artifact(tmp_path)
    folder = tmp_path / "tiny" / "1"
    document = json.loads((folder / "artifact.json").read_text())
    broken = {**document["variants"][0], "precision": "fp16", "runtime": "openvino"}  # no precision of OpenVINO's
    document["variants"].append(broken)
    (folder / "artifact.json").write_text(json.dumps(document))
    result = invoke("--repository", tmp_path, "--model", "tiny", "--batch", 1, "--repeats", 3)
    assert result.exit_code == 1
    assert "openvino-fp16: ArtifactError: OpenVINO has no precision 'fp16' here" in result.stdout
    assert "onnxruntime-fp32" in result.stdout


def test_an_engine_that_fails_on_an_image_is_told_in_one_line(invoke, tiny, nuclei_repository, tmp_path, capfd):
    image = np.full((40, 40, 3), tiny.FAILING_RED, np.uint8)
    Image.fromarray(image).save(tmp_path / "bad.png")
    result = invoke("--repository", nuclei_repository, "--images", tmp_path, "--batch", 1, "--repeats", 3)
    assert result.exit_code == 1
    assert "onnxruntime-fp32: " in result.stdout
    assert "exit code" not in result.stdout
    assert "Traceback" not in capfd.readouterr().err


def test_a_server_is_asked_by_so_many_clients(invoke, nuclei_server, image_path):
    options = ("--clients", 1, "--clients", 3, "--seconds", 1, "--images", image_path, "--json", "-")
    result = invoke("--url", nuclei_server, "--api-key", KEY, *options)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["model"], figures["version"], figures["variant"]) == ("nuclei", "2", "onnxruntime-fp32")
    assert [loop["clients"] for loop in figures["loops"]] == [1, 3]
    for loop in figures["loops"]:
        assert loop["images"] > 0
        assert loop["failures"] == {}
        assert loop["p50_ms"] <= loop["p95_ms"] <= loop["p99_ms"]
        assert loop["images_per_s"] > 0


def test_refusals_of_a_server_are_counted(invoke, nuclei_server, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    result = invoke("--url", nuclei_server, "--api-key", KEY, "--clients", 1, "--seconds", 1, "--images", bad)
    assert result.exit_code == 0, result.output
    assert "x 415" in result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "cats"), "there is no model cats in "),
        (("--version", 9), "nuclei has no version 9 in "),
        (("--variant", "abacus-fp32"), "legal: onnxruntime-fp32"),
        (("--clients", 2), "name it with --url"),
        (("--url", "http://127.0.0.1:1", "--batch", 2), "are for this machine"),
        (("--url", "http://127.0.0.1:1"), "cannot reach http://127.0.0.1:1"),
        (("--url", "127.0.0.1:8000"), "url is '127.0.0.1:8000'; legal: http://HOST:PORT"),
        (("--url", "http://127.0.0.1:port"), "url is 'http://127.0.0.1:port'; legal: "),
    ],
)
def test_what_is_wrong_is_told_in_one_line(invoke, nuclei_repository, image_path, monkeypatch, options, words):
    monkeypatch.setattr("knet.bench_server.READY_S", 0.2)
    result = invoke("--repository", nuclei_repository, "--images", image_path, *options)
    assert result.exit_code == 1
    assert result.stderr.startswith("knet: ")
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_without_images_is_told(invoke, nuclei_repository, tmp_path):
    result = invoke("--repository", nuclei_repository, "--images", tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} has no images; legal: .png" in result.stderr


def test_images_are_evenly_spaced(tmp_path):
    from knet.bench import find_images

    for number in range(10):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.stem for path in find_images(tmp_path, 4)] == ["0", "2", "5", "7"]
    assert len(find_images(tmp_path, 20)) == 10
