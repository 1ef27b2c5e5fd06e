import dataclasses

import pytest
import torch
from torch import nn

from model.knet import KNet
from training.optimiser import Average, parameter_groups, warm_decay


@pytest.fixture
def run_config(tiny_run, discs):
    return tiny_run.config_for(tiny_run.read(discs))


def test_the_average_forgets_the_start_soon_and_then_by_its_decay():
    assert warm_decay(0.999, 1) == pytest.approx(2 / 11)
    assert warm_decay(0.999, 10**6) == 0.999
    assert warm_decay(0.5, 10**6) == 0.5


def test_the_average_follows_weights_and_buffers():
    network = nn.BatchNorm1d(2)
    average = Average(network, 0.25)
    for value in (0.0, 1.0, 2.0):
        network.weight.data.fill_(value)
        network.running_mean.fill_(value)
        network.num_batches_tracked.fill_(int(value))
        average.update_parameters(network)
    expected = 0.25 * (1 - 2 / 11) + 0.75 * 2  # 0, then 1 by the warm decay 2/11, then 2 by 3/12
    assert average.module.weight.tolist() == pytest.approx([expected] * 2)
    assert average.module.running_mean.tolist() == pytest.approx([expected] * 2)
    assert average.module.num_batches_tracked == 2


def test_without_decay_the_average_is_the_network():
    network = nn.Linear(2, 2)
    average = Average(network, 0.0)
    for value in (1.0, 2.0):
        network.weight.data.fill_(value)
        average.update_parameters(network)
    assert torch.equal(average.module.weight, network.weight)


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_vectors_decay_only_if_asked_and_the_backbone_learns_more_slowly(run_config, decay_vectors):
    network = KNet(run_config.model)
    groups = parameter_groups(network, dataclasses.replace(run_config, decay_vectors=decay_vectors))
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters()}
    assert len(grouped) == len(list(network.parameters()))
    backbone = {id(p) for p in network.backbone.parameters()}
    for group in groups:
        for p in group["params"]:
            assert (group["weight_decay"] > 0) == (p.ndim > 1 or decay_vectors)
            assert group["base_lr"] == pytest.approx(1e-3 * (0.25 if id(p) in backbone else 1))
