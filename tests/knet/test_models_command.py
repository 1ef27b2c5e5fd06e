import json

import pytest
from typer.testing import CliRunner

from knet.cli import app

KEY = "a key of 16 bytes"


@pytest.fixture
def invoke():
    def call(*arguments: object):
        return CliRunner().invoke(app, ["models", *map(str, arguments)], env={"COLUMNS": "120"})

    return call


def test_a_repository_is_listed_with_what_runs_here(invoke, nuclei_repository):
    result = invoke("--repository", nuclei_repository)
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "onnx" in line]
    assert [row[:4] for row in rows] == [
        ["nuclei/1", "panoptic", "3", "onnxruntime-fp32"],
        ["nuclei/2", "panoptic", "3", "onnxruntime-fp32"],
    ]
    assert [row[-1] for row in rows] == ["runs", "runs"]


def test_json_has_sizes_scores_and_classes_and_nothing_else_is_printed(invoke):
    result = invoke("--json", "-")  # the bundled models
    assert result.exit_code == 0, result.output
    found = {model["name"]: model for model in json.loads(result.stdout)}
    nuclei = found["nuclei"]
    assert nuclei["categories"] == ["nucleus", "background"]
    assert nuclei["score"][0] == "pq"
    assert 0.5 < nuclei["score"][1] < 1
    sizes = {way["name"]: way["file_bytes"] for way in nuclei["variants"]}
    assert 0 < sizes["onnxruntime-int8"] < sizes["onnxruntime-fp32"]
    assert all(way["score"][0] == "miou" for way in found["cropweed"]["variants"])
    assert nuclei["licence"] == "Apache-2.0"


def test_a_servers_models_are_listed_with_their_state(invoke, nuclei_server):
    result = invoke("--url", nuclei_server, "--api-key", KEY)
    assert result.exit_code == 0, result.output
    assert "state" in result.stdout
    assert result.stdout.count("ready") == 2
    result = invoke("--url", nuclei_server, "--api-key", KEY, "--json", "-")
    first, second = json.loads(result.stdout)
    assert (first["version"], second["version"]) == ("1", "2")
    assert first["running"] == "onnxruntime-fp32"
    assert first["variants"][0]["file_bytes"] is None


def test_a_damaged_model_is_told_and_does_not_hide_the_others(invoke, tiny, tmp_path):
    tiny.write_artifact(tmp_path, name="good")
    tiny.write_artifact(tmp_path, name="bad")
    graph = tmp_path / "bad" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    result = invoke("--repository", tmp_path)
    assert result.exit_code == 1
    assert "good/1" in result.stdout
    assert "damaged" in result.stdout
    assert f"{graph} has sha256" in result.stdout


def test_a_variant_that_cannot_run_here_says_why(invoke, tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path)
    path = tmp_path / "tiny" / "1" / "artifact.json"
    document = json.loads(path.read_text())
    document["variants"] = [{**document["variants"][0], "runtime": "abacus"}, document["variants"][0]]
    path.write_text(json.dumps(document))
    result = invoke("--repository", tmp_path)
    assert result.exit_code == 0, result.output
    assert "cannot run" in result.stdout
    assert "runtime 'abacus' is not known" in result.stdout
    assert metadata.variants[0].name == "onnxruntime-fp32"


def test_a_folder_without_models_is_told_in_one_line(invoke, tmp_path):
    result = invoke("--repository", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"knet: no model in {tmp_path}: expected NAME/VERSION/artifact.json in it\n"
