import json

import pytest
import torch

from model.checkpoint import load
from model.knet import KNet
from training.checkpoints import METRICS, Checkpoints, without_parts


@pytest.fixture
def network_of(seeded_config):
    def make(value):
        network = KNet(seeded_config)
        torch.nn.init.constant_(network.kernel_head.conv_seg.bias, value)
        return network

    return make


def value_in(folder):
    return load(folder).kernel_head.conv_seg.bias[0].item()


def test_a_worse_evaluation_never_replaces_the_best_checkpoint(network_of, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.scored_step() is None
    for step, score, is_best in ((1, 0.3, True), (2, 0.5, True), (3, 0.4, False), (4, 0.5, False)):
        network = network_of(float(step))
        checkpoints.save_last(network)
        # Each in an object of its own, as after a resume.
        assert Checkpoints(tmp_path).add_scores(step, network, {"sq": 0.9}, ("pq", score)) is is_best
        assert checkpoints.scored_step() == step
        assert value_in(tmp_path / "last") == step
    assert value_in(tmp_path) == 2
    assert json.loads((tmp_path / METRICS).read_text()) == {"step": 2, "main": ["pq", 0.5], "sq": 0.9}


def test_a_write_that_fails_leaves_no_half_of_a_file(tmp_path):
    (tmp_path / "whole").write_text("whole")
    (tmp_path / "whole.part").write_text("ha")
    with pytest.raises(OSError, match="full"), without_parts(tmp_path):
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
