import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from model.kernel_update import AdaptiveKernelUpdate
from model.knet import KNet
from training.dataset import Target
from training.loss_network import Batch, LossNetwork, batch_inputs, forced_seeds, forced_share
from training.precision import keep_in_fp32

NOTHING = {
    "masks": torch.zeros(0, 32, 32, dtype=torch.bool),
    "class_index": torch.zeros(0, dtype=torch.int64),
    "crowd_masks": torch.zeros(0, 32, 32, dtype=torch.bool),
    "crowd_class": torch.zeros(0, dtype=torch.int64),
}


@pytest.fixture
def run_config(tiny_run, discs):
    return tiny_run.config_for(tiny_run.read(discs))


def target(size=(32, 32), mean=100.0):
    return Target(**NOTHING, valid_size=size, pixel_mean=mean, pixel_std=9.0, path=Path("image.png"))


def test_network_inputs_are_normalised_content_on_a_ground_of_0(run_config):
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    pixels, valid = batch_inputs(images, [target(), target((20, 9), 50.0)], run_config)
    assert (pixels[0] == 0).all()
    torch.testing.assert_close(pixels[1, :, :20, :9], torch.full((3, 20, 9), math.asinh(5.0)))
    assert (pixels[1, :, 20:] == 0).all()
    assert (pixels[1, :, :, 9:] == 0).all()
    assert valid.shape == (2, 1, 16, 16)
    assert valid[0].all()
    assert valid[1, 0].nonzero().amax(dim=0).tolist() == [9, 4]


def test_true_centres_are_forced_ever_more_rarely_and_by_the_samples_number_alone(run_config):
    config = dataclasses.replace(run_config, steps=100, forced_seeds_until=0.5)
    truth = [SimpleNamespace(centres=torch.ones(64, 64, dtype=torch.bool))] * 2
    share = []
    for step in (0, 10, 25, 49):
        both = forced_seeds(truth, Batch(torch.empty(2), [], range(8, 10), forced_share(step, config)), config)
        alone = forced_seeds(truth[:1], Batch(torch.empty(1), [], range(9, 10), forced_share(step, config)), config)
        assert torch.equal(both[1:], alone)
        share.append(float(both.float().mean()))
    assert share == pytest.approx([1, 0.8, 0.5, 0.02], abs=0.03)  # 8192 draws
    assert forced_share(50, config) == 0
    assert forced_seeds(truth, Batch(torch.empty(2), [], range(8, 10)), config) is None


@pytest.mark.parametrize("form", ["seeded", "panoptic", "instance", "semantic"])
def test_every_parameter_has_a_gradient_even_without_any_object(form, run_config, tiny_run):
    categories = run_config.model.categories
    model = run_config.model if form == "seeded" else tiny_run.other_models(categories)[form]
    augment = dataclasses.replace(run_config.augment, crop_size=64)
    network = KNet(model)
    loss_network = LossNetwork(network, dataclasses.replace(run_config, model=model, augment=augment)).train()
    batch = Batch(torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8), [target(), target()], range(2))
    terms = loss_network(batch)
    torch.stack(list(terms.values())).sum().backward()
    # Otherwise processes that train together would wait for each other for ever.
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_frozen_batch_norms_keep_their_statistics_but_train(run_config):
    network = KNet(run_config.model)
    LossNetwork(network, dataclasses.replace(run_config, batch_norm="frozen")).train()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert all(norm.weight.requires_grad for norm in norms)
    assert network.stages.training


def test_group_features_too_large_for_half_precision_pass_the_update(run_config):
    network = KNet(run_config.model)
    keep_in_fp32(network, "fp16", "cpu")
    update = next(module for module in network.modules() if isinstance(module, AdaptiveKernelUpdate))
    with torch.autocast("cpu", torch.float16):
        updated = update(torch.full((1, 2, 16), 1e6), torch.ones(1, 2, 16))
    assert updated.dtype == torch.float32
    assert updated.isfinite().all()
