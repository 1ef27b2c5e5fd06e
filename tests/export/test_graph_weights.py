"""Training can go on from an artifact; here, as the artifact is made by export."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

import training.learner
from model.knet import KNet
from service.artifact import load
from training.augment import AugmentConfig
from training.config import TrainConfig
from training.data.open import open_data
from training.engine import Devices, make_fabric
from training.graph_weights import artifact_state, is_artifact
from training.learner import Learner
from training.pretrained import fill_from

NUCLEI = Path(__file__).parent.parent / "data" / "nuclei"

# What a graph does not hold, as it serves training alone: the classes before the last stage, an auxiliary head, and the
# classes of an instance network's pixels.
UNSERVED = r"stages\.0\.class_branch\.|auxiliary\.|kernel_head\.conv_seg\."


@pytest.mark.parametrize("form", ["seeded", "learned", "instance", "semantic"])
def test_the_network_of_an_artifact_gives_what_it_gave(exported, form, capsys):
    made = exported[form]
    torch.manual_seed(1)
    network = KNet(made.network.config).eval()
    fill_from(network, made.folder, Console(soft_wrap=True))
    _, _, new = capsys.readouterr().out.strip().partition("; new: ")
    assert [name for name in new.split(", ") if name and not re.match(UNSERVED, name)] == []
    size = 2 * network.config.size_multiple
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        mine, theirs = network(images), made.network(images)
    close(mine.mask_logits[-1], theirs.mask_logits[-1])
    if form != "semantic":
        close(mine.class_logits[-1], theirs.class_logits[-1])


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_classes_of_other_categories_are_new(exported, capsys):
    made = exported["seeded"]
    config = made.network.config
    renamed = tuple(dataclasses.replace(category, name=f"my {category.name}") for category in config.categories)
    fill_from(KNet(dataclasses.replace(config, categories=renamed)), made.folder, Console(soft_wrap=True))
    assert "new: kernel_head.conv_seg.weight" in capsys.readouterr().out


def test_an_artifact_without_the_graph_of_fp32_is_refused(exported):
    folder = exported["seeded"].folder
    assert is_artifact(folder)
    assert not is_artifact(exported["seeded"].checkpoint)
    without = load(folder).model_copy(update={"variants": ()})
    with pytest.raises(ValueError, match="no variant onnxruntime-fp32"):
        artifact_state(folder, without, exported["seeded"].network)


def test_a_run_from_an_artifact_gives_batch_norms_statistics(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(training.learner, "tune_cpu", lambda: None)
    made = exported["seeded"]
    config = TrainConfig(
        model=made.network.config,
        augment=AugmentConfig(crop_size=64),
        batch_size=2,
        start_from=str(made.folder),
    )
    fabric = make_fabric(Devices(accelerator="cpu"), config.precision)
    learner = Learner(config, open_data(NUCLEI, "train", None), tmp_path, fabric, Console())
    network = learner.network.eval()
    assert all(norm.running_mean.any() for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        close(network(images).mask_logits[-1], made.network(images).mask_logits[-1])
