"""Under bf16 autocast the sums over pixels, the matching and the losses are computed in fp32."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.kernel_update import AdaptiveKernelUpdate
from model.knet import KNet
from training.criterion import make_criterion
from training.loss_config import LossConfig
from training.recipes import SEEDED_LOSS
from training.targets import prepare_targets

PAPER = LossConfig()
VARIANTS = {
    "paper": PAPER,
    "points": LossConfig(points=500),
    "small_objects": SEEDED_LOSS,
}


class Types(TorchDispatchMode):
    """Notes the types of the numbers that operations give."""

    def __init__(self):
        super().__init__()
        self.of = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor) and one.is_floating_point():
                self.of.setdefault(func.overloadpacket.__name__, set()).add(one.dtype)
        return result


@pytest.fixture
def case(config, cases):
    """A network's output under autocast, and its targets."""
    torch.manual_seed(0)
    network = KNet(config).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.randn(1, 3, cases.SIZE, cases.SIZE))
    return output, [prepare_targets(cases.make_target(), config)]


@pytest.mark.parametrize("loss", VARIANTS.values(), ids=VARIANTS)
def test_no_loss_and_no_cost_is_computed_in_half_precision(config, case, loss):
    output, truth = case
    assert output.class_logits[-1].dtype == output.seg_logits.dtype == torch.bfloat16
    # Also where the caller forgets to leave autocast.
    with Types() as types, torch.autocast("cpu", torch.bfloat16):
        terms = make_criterion(config, loss)(output, truth, torch.Generator().manual_seed(0))
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert types.of["mm"] == {torch.float32}
    moved = {"index", "detach", "_to_copy", "view", "_unsafe_view", "alias", "slice", "select", "expand", "gather"}
    moved |= {"index_select", "unsqueeze", "squeeze", "where", "permute", "transpose", "clone", "scalar_tensor"}
    halved = {name for name, dtypes in types.of.items() if torch.bfloat16 in dtypes}
    assert halved <= moved  # what only moves the network's numbers about


def test_losses_of_half_precision_logits_are_those_of_the_same_numbers_in_full(config, case):
    output, truth = case
    full = dataclasses.replace(
        output,
        mask_logits=tuple(x.float() for x in output.mask_logits),
        class_logits=tuple(x.float() for x in output.class_logits),
        seg_logits=output.seg_logits.float(),
        heat_logits=None if output.heat_logits is None else output.heat_logits.float(),
    )
    criterion = make_criterion(config, PAPER)
    ours, expected = criterion(output, truth), criterion(full, truth)
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


def test_the_group_feature_is_summed_in_fp32(config, cases):
    network = KNet(config).train()
    seen = []
    for module in network.modules():
        if isinstance(module, AdaptiveKernelUpdate):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(1, 3, cases.SIZE, cases.SIZE))
    assert seen == [torch.float32] * config.num_stages
