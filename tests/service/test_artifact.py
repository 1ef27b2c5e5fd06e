import json
import logging
import shutil

import pytest
from pydantic import ValidationError

from service import artifact
from service.app import create_app
from service.artifact import ArtifactMetadata, Variant
from service.errors import ArtifactError
from service.repository import scan
from service.settings import BUNDLED_REPOSITORY, Settings


@pytest.fixture
def metadata(tiny, tmp_path) -> ArtifactMetadata:
    return tiny.write_artifact(tmp_path / "repository")


@pytest.fixture
def folder(metadata, tmp_path):
    return tmp_path / "repository" / "tiny" / "1"


def change(folder, **values) -> None:
    path = folder / "artifact.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_is_saved_is_loaded(metadata, folder):
    assert artifact.load(folder) == metadata
    artifact.verify_files(folder, metadata)


def test_a_newer_schema_is_refused_with_the_way_out(folder):
    change(folder, schema_version=5, something_new=1)
    with pytest.raises(ArtifactError, match="schema_version 5; this release reads up to 4"):
        artifact.load(folder)


def test_an_older_schema_is_read(metadata, folder):
    path = folder / "artifact.json"
    content = json.loads(path.read_text())
    for name in ("mask_upsample", "merge", "mask_quality"):
        del content[name]
    for name in ("shortest", "longest", "multiple"):
        del content["geometry"][name]
    path.write_text(json.dumps(content | {"schema_version": 1}))
    assert artifact.load(folder) == metadata.model_copy(update={"schema_version": 1})


def test_the_bundled_models_are_read():
    assert scan(BUNDLED_REPOSITORY)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "not JSON"), ("[" * 5000, "not JSON"), ("[]", "not a valid artifact"), ("{}", "not a valid artifact")],
)
def test_damaged_metadata_is_refused(folder, content, words):
    (folder / "artifact.json").write_text(content)
    with pytest.raises(ArtifactError, match=words):
        artifact.load(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="cannot read"):
        artifact.load(tmp_path / "nowhere")


def test_a_changed_graph_is_noticed(metadata, folder):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="sha256"):
        artifact.verify_files(folder, metadata)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        artifact.verify_files(folder, metadata)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "a/../../b", "", "..\\model.onnx", "C:\\model.onnx"])
def test_files_outside_of_the_folder_are_refused(file):
    with pytest.raises(ValidationError, match="inside"):
        Variant(runtime="onnxruntime", precision="fp32", file=file, sha256="0" * 64)


@pytest.mark.parametrize(
    "values",
    [
        {"output_stride": 3},
        {"num_slots": 1},
        {"kind": "video"},
        {"name": "../x"},
        {"version": "latest"},
        {"unknown": 1},
        {"thresholds": {"score": 1.5, "overlap": 0.5}},
        {"variants": []},
    ],
)
def test_senseless_values_are_refused(folder, values):
    change(folder, **values)
    with pytest.raises(ArtifactError):
        artifact.load(folder)


def test_stuff_before_things_is_refused(folder, tiny):
    change(folder, categories=[category.model_dump() for category in reversed(tiny.CATEGORIES)])
    with pytest.raises(ArtifactError, match="things before stuff"):
        artifact.load(folder)


@pytest.mark.parametrize("what", ["id", "name"])
def test_two_categories_of_one_name_or_id_are_refused(folder, tiny, what):
    first, second, third = (category.model_dump() for category in tiny.CATEGORIES)
    change(folder, categories=[first, second | {what: first[what]}, third])
    with pytest.raises(ArtifactError, match=f"{what} of its own"):
        artifact.load(folder)


@pytest.mark.parametrize("kind", ["instance", "semantic"])
def test_what_is_saved_of_another_kind_is_loaded(tiny, tmp_path, kind):
    metadata = tiny.write_artifact(tmp_path, kind=kind, stride=8)
    assert artifact.load(tmp_path / "tiny" / "1") == metadata


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"geometry": {"mode": "tile", "sizes": [64]}}, "fit or shortest_edge"),
        ({"mask_upsample": 3}, "mask_upsample"),
        ({"output_stride": 1, "mask_upsample": 2}, "mask_upsample 2 must be at most output_stride 1"),
        ({"merge": "loud"}, "'official' or 'confident'"),
        ({"categories": [{"id": 9, "name": "sky", "is_thing": False, "colour": [0, 0, 0]}]}, "not the stuff sky"),
    ],
)
def test_what_an_instance_artifact_cannot_be_is_refused(tiny, tmp_path, values, words):
    tiny.write_artifact(tmp_path, kind="instance", stride=4, mask_upsample=2)
    folder = tmp_path / "tiny" / "1"
    change(folder, **values)
    with pytest.raises(ArtifactError, match=words):
        artifact.load(folder)


def test_enlarged_mask_logits_are_for_instance_artifacts(folder):
    change(folder, output_stride=4, mask_upsample=2)
    with pytest.raises(ArtifactError, match="is for instance artifacts; a panoptic one has 1"):
        artifact.load(folder)


@pytest.mark.parametrize(
    "geometry",
    [{"mode": "tile", "sizes": [30]}, {"mode": "shortest_edge", "shortest": 32, "longest": 64, "multiple": 2}],
)
def test_canvas_sides_must_be_multiples_of_the_stride(folder, geometry):
    change(folder, output_stride=4, geometry=geometry)
    with pytest.raises(ArtifactError, match="multiple of output_stride"):
        artifact.load(folder)


def test_a_repository_lists_versions_by_number(repository):
    assert [stored.metadata.version for stored in scan(repository)] == ["2", "10"]


def test_a_version_without_an_artifact_is_passed_over_with_a_word(repository, tmp_path, caplog):
    shutil.copytree(repository, tmp_path / "models")
    (tmp_path / "models" / "tiny" / "77").mkdir()
    (tmp_path / "models" / "tiny" / "notes").mkdir()
    with caplog.at_level(logging.WARNING, logger="knet"):
        assert "77" not in [stored.metadata.version for stored in scan(tmp_path / "models")]
    (record,) = caplog.records
    assert record.getMessage().endswith("tiny/77 is passed over: it has no artifact.json")


def test_an_empty_repository_says_what_was_expected(tmp_path):
    with pytest.raises(ArtifactError, match="NAME/VERSION"):
        scan(tmp_path)


def test_an_artifact_in_a_folder_of_another_name_is_refused(folder):
    change(folder, name="other")
    with pytest.raises(ArtifactError, match="other/1"):
        scan(folder.parent.parent)


def test_an_artifact_without_a_graph_for_this_server_is_refused(folder, metadata):
    variant = metadata.variants[0].model_dump() | {"runtime": "tensorrt"}
    change(folder, variants=[variant])
    with pytest.raises(ArtifactError, match="cannot run here: tensorrt-fp32: "):
        create_app(Settings(repository=folder.parent.parent))
