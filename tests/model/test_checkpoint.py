import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import CONFIG, WEIGHTS, load, save
from model.knet import KNet


@pytest.fixture
def folder(tmp_path, learned_config):
    """A checkpoint."""
    torch.manual_seed(0)
    save(KNet(learned_config), tmp_path / "new" / "checkpoint")
    return tmp_path / "new" / "checkpoint"


def change(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_who_may_read_the_config_may_read_the_weights(folder):
    (folder / "other").touch()
    modes = {(folder / name).stat().st_mode for name in (CONFIG, WEIGHTS, "other")}
    assert len(modes) == 1


def test_a_loaded_network_is_the_saved_one(tmp_path, config):
    torch.manual_seed(0)
    network = KNet(config)
    save(network, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == config
    assert not loaded.training
    ours, theirs = loaded.state_dict(), network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_is_two_files_and_replaces_an_older_one(folder, seeded_config):
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    save(KNet(seeded_config), folder)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert load(folder).config == seeded_config


def test_channels_last_weights_are_saved_too(tmp_path, learned_config):
    network = KNet(learned_config).to(memory_format=torch.channels_last)
    save(network, tmp_path)
    assert torch.equal(load(tmp_path).kernel_head.conv_seg.weight, network.kernel_head.conv_seg.weight)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"is no checkpoint: it has no {name}"):
        load(folder)


@pytest.mark.parametrize("num_bytes", [0, 5, 300, -1])
def test_truncated_weights_are_refused(folder, num_bytes):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=WEIGHTS):
        load(folder)


def test_a_missing_tensor_is_named(folder):
    change(folder, lambda tensors: tensors.pop("kernel_head.conv_seg.bias"))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}[\s\S]*kernel_head\.conv_seg\.bias"):
        load(folder)


def test_an_extra_tensor_is_named(folder):
    change(folder, lambda tensors: tensors.update(ballast=torch.zeros(1)))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}[\s\S]*ballast"):
        load(folder)


def test_a_tensor_of_another_shape_is_named(folder):
    change(folder, lambda tensors: tensors.update({"kernel_head.conv_seg.bias": torch.zeros(5)}))
    with pytest.raises(ValueError, match=rf"{WEIGHTS}[\s\S]*kernel_head\.conv_seg\.bias"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"backbone": "test_resnet"}', "\xff"])
def test_a_damaged_config_is_refused(folder, text):
    (folder / CONFIG).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=CONFIG):
        load(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", {"name": "resnet5000"}),
        ("backbone", "resnet50"),
        ("norm", "none"),
        ("num_stages", "2"),
        ("categories", [[]]),
        ("canvas_sizes", None),
    ],
)
def test_an_illegal_config_is_refused(folder, field, value):
    values = json.loads((folder / CONFIG).read_text()) | {field: value}
    (folder / CONFIG).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=CONFIG):
        load(folder)
