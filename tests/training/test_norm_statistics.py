import copy
import dataclasses

import torch
from torch import nn

from model.knet import KNet
from training.norm_statistics import set_statistics


def test_statistics_are_those_of_the_inputs_and_change_no_output(seeded_config):
    torch.manual_seed(0)
    network = KNet(dataclasses.replace(seeded_config)).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-1, 1)
    before = copy.deepcopy(network)
    batches = [torch.randn(3, 3, 64, 96) * 2 + 1, torch.randn(1, 3, 64, 96)]
    set_statistics(network, [(batch, None) for batch in batches])
    assert not network.training
    first = network.backbone.body.bn1
    values = torch.cat([network.backbone.body.conv_stem(batch) for batch in batches])
    torch.testing.assert_close(first.running_mean, values.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.running_var, values.var(dim=(0, 2, 3), correction=0), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first.weight, before.backbone.body.bn1.weight, rtol=1e-2)
    for mine, other in zip(
        network.neck(network.backbone(batches[0])), before.neck(before.backbone(batches[0])), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))


def test_an_auxiliary_head_which_no_artifact_has_stays_as_it_was(semantic_config):
    network = KNet(dataclasses.replace(semantic_config, norm="batch", auxiliary=True)).eval()
    before = copy.deepcopy(network.auxiliary.state_dict())
    set_statistics(network, [(torch.randn(2, 3, 64, 64), None)])
    assert all((tensor == before[name]).all() for name, tensor in network.auxiliary.state_dict().items())
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
