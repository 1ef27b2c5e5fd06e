import dataclasses

import torch

from model.instance import InstanceModel, best_instances, instance_scores
from model.knet import KNet, KNetOutput
from model.served import make_served


def make_network(config):
    torch.manual_seed(3)
    network = KNet(config).eval()
    for stage in network.stages:
        stage.class_branch.output.bias.data.zero_()
    return network


def test_outputs_are_those_of_the_contract(instance_config, make_inputs):
    model = make_served(make_network(instance_config))
    assert isinstance(model, InstanceModel)
    with torch.inference_mode():
        output = model(**make_inputs())
    assert model.output_names == ("score", "class_index", "mask_index", "mask_logits")
    assert output.mask_logits.shape == (2, 6, 8, 12)
    assert output.score.shape == output.class_index.shape == output.mask_index.shape == (2, 8)
    assert output.class_index.dtype == output.mask_index.dtype == torch.int32
    assert (output.score.diff(dim=1) <= 0).all()


def test_a_kernel_may_come_back_under_several_classes():
    scores = torch.tensor([[[0.9, 0.8, 0.1], [0.2, 0.85, 0.3]]])
    score, class_index, kernel = best_instances(scores, 4)
    torch.testing.assert_close(score, torch.tensor([[0.9, 0.85, 0.8, 0.3]]))
    assert class_index.tolist() == [[0, 1, 1, 2]]
    assert kernel.tolist() == [[0, 1, 0, 1]]
    assert best_instances(scores, 100)[0].shape == (1, 6)


def test_masks_may_reach_into_the_padding(instance_config, make_inputs):
    """As in the official code, whose masks are cut after they are enlarged."""
    model = make_served(make_network(instance_config))
    with torch.inference_mode():
        logits = model(**make_inputs(valid_size=[[64, 96], [40, 50]])).mask_logits
    assert (logits[1, :, 6:] > -1e3).all()


def test_rescoring_multiplies_by_the_mean_probability_inside_the_mask():
    mask_logits = torch.full((1, 2, 4, 4), -3.0)
    mask_logits[0, 0, :2] = torch.tensor([0.5, 2.0]).repeat(2, 2)
    output = KNetOutput((mask_logits,), mask_logits, (torch.zeros(1, 2, 3),), torch.zeros(1, 3, 4, 4))
    quality = torch.tensor([0.5, 2.0]).sigmoid().mean()
    scores = instance_scores(output, rescore=True)
    torch.testing.assert_close(scores[0, 0], (0.5 * quality).expand(3))
    assert (scores[0, 1] == 0).all()  # an empty mask
    assert (instance_scores(output, rescore=False) == 0.5).all()


def test_the_config_chooses_rescoring(instance_config, make_inputs):
    config = dataclasses.replace(instance_config, mask_quality=True)
    network = make_network(instance_config)
    rescored = make_network(config)
    with torch.inference_mode():
        plain, better = (make_served(one)(**make_inputs()).score for one in (network, rescored))
    assert (better.sum(dim=1) < plain.sum(dim=1)).all()
