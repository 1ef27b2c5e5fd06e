import copy
import dataclasses

import pytest
import torch

from model.config import BackboneConfig
from model.knet import KNet
from training.activation_checkpointing import checkpoint_activations, uncounted
from training.criterion import make_criterion
from training.loss_config import LossConfig


@pytest.fixture(params=["test_efficientnet", "swin_tiny_patch4_window7_224", "regnetx_002"])
def network(request, learned_config) -> KNet:
    """Blocks of batch norms, of transformers with dropped paths, and levels that are no rows of blocks."""
    drop_path = 0.5 if request.param.startswith("swin") else 0.0
    backbone = BackboneConfig(name=request.param, drop_path=drop_path)
    torch.manual_seed(0)
    return KNet(dataclasses.replace(learned_config, backbone=backbone, norm="batch"))


def step(network, cases, checkpointed: bool) -> KNet:
    network = copy.deepcopy(network).train()
    if checkpointed:
        checkpoint_activations(network)
    torch.manual_seed(1)
    output = network(torch.randn(2, 3, cases.SIZE, cases.SIZE))
    truth = [cases.prepare_targets(cases.make_target(), network.config)] * 2
    cases.total(make_criterion(network.config, LossConfig())(output, truth)).backward()
    return network


def test_gradients_and_statistics_are_those_of_the_plain_network(network, cases):
    plain, checkpointed = step(network, cases, False), step(network, cases, True)
    assert sum(type(module).__name__ == "CheckpointWrapper" for module in checkpointed.modules()) > 4
    theirs = plain.named_parameters()
    for parameter, (name, expected) in zip(checkpointed.parameters(), theirs, strict=True):
        # The same operations on the same numbers.
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, expected.grad), name
    state = checkpointed.state_dict()
    assert list(state) == list(plain.state_dict())
    assert any("num_batches_tracked" in name for name in state)
    for name, value in plain.state_dict().items():
        assert torch.equal(state[name], value), name


def test_less_is_kept_for_the_backward_pass(learned_config, cases):
    kept = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        network = KNet(learned_config).train()
        if checkpointed:
            checkpoint_activations(network)
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.update({x.data_ptr(): x.nbytes}) or x, lambda x: x
        ):
            network(torch.randn(2, 3, cases.SIZE, cases.SIZE))
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.7 * kept[0]


def test_a_checkpoint_of_either_form_loads_into_the_other(learned_config):
    plain, checkpointed = KNet(learned_config), KNet(learned_config)
    checkpoint_activations(checkpointed)
    plain.load_state_dict(checkpointed.state_dict())
    checkpointed.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = checkpointed.eval()(image), plain.eval()(image)
    assert torch.equal(ours.mask_logits[-1], theirs.mask_logits[-1])


def test_batch_norms_keep_a_counter_while_they_are_computed_again():
    """Synchronised ones, which this machine may not have, refuse to work without."""
    norm = torch.nn.BatchNorm2d(3).train()
    norm(torch.randn(2, 3, 4, 4))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    with uncounted(norm):
        assert norm.num_batches_tracked is not None
        norm(torch.randn(2, 3, 4, 4))
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())
    assert norm.momentum == 0.1
