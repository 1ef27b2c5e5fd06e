import dataclasses

import numpy as np
import pytest
import torch

from model.kernel_update import AdaptiveKernelUpdate, KernelInteraction, KernelUpdateHead, PlaceUpdate
from model.kernels import Kernels, Place

# Ours -> the official code's, below roi_head.mask_head.0
UPDATE_NAMES = {
    "group_layer": "dynamic_layer",
    "kernel_layer": "input_layer",
    "group_gate": "update_gate",
    "kernel_gate": "input_gate",
    "group_gate_norm": "norm_in",
    "kernel_gate_norm": "input_norm_in",
    "group_norm": "norm_out",
    "kernel_norm": "input_norm_out",
    "output": "fc_layer",
    "output_norm": "fc_norm",
}
INTERACTION_NAMES = {
    "in_proj.weight": "attention.attn.in_proj_weight",
    "in_proj.bias": "attention.attn.in_proj_bias",
    "out_proj.weight": "attention.attn.out_proj.weight",
    "out_proj.bias": "attention.attn.out_proj.bias",
    "ffn.0.weight": "ffn.layers.0.0.weight",
    "ffn.0.bias": "ffn.layers.0.0.bias",
    "ffn.2.weight": "ffn.layers.1.weight",
    "ffn.2.bias": "ffn.layers.1.bias",
}


def fill(module, rule, official_name):
    """Weights by the rule of the official code's names; returns the module in float64."""
    state = module.state_dict()
    for name, tensor in state.items():
        if (theirs := official_name(name)) is not None:
            made = rule.make_tensor(f"roi_head.mask_head.0.{theirs}", tensor.shape)
            state[name] = torch.from_numpy(made)
    module.load_state_dict(state)
    return module.double().eval()


def update_name(name):
    layer, kind = name.split(".")
    return f"kernel_update_conv.{UPDATE_NAMES[layer]}.{kind}"


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_place(batch, num_kernels):
    return Place(5 * random(batch, num_kernels, 2), random(batch, num_kernels).exp(), random(batch, num_kernels))


def make_interaction(placed):
    torch.manual_seed(0)
    return KernelInteraction(16, 4, 32, placed).double().eval()


def test_adaptive_update_is_the_official_one(components, official_weights):
    module = fill(AdaptiveKernelUpdate(256), official_weights, update_name)
    group_features = torch.from_numpy(components["updator_update_feature"])
    kernels = torch.from_numpy(components["updator_input_feature"])[:, :, 0]
    ours = module(group_features, kernels).detach().reshape(components["updator_out"].shape)
    np.testing.assert_allclose(ours, components["updator_out"], atol=1e-12)  # float64 on both sides


def test_attention_is_the_official_one(components, official_weights):
    module = fill(KernelInteraction(256, 8, 2048, False), official_weights, INTERACTION_NAMES.get)
    kernels = torch.from_numpy(components["mha_in"]).transpose(0, 1)
    module.attention_norm = torch.nn.Identity()
    module.ffn, module.ffn_norm = torch.nn.Identity(), torch.nn.Identity()
    ours = module(kernels, None, None).detach() / 2  # the FFN's place doubles its input
    np.testing.assert_allclose(ours.transpose(0, 1), components["mha_out"], atol=1e-12)  # float64 on both sides


def test_ffn_is_the_official_one(components, official_weights):
    module = fill(KernelInteraction(256, 8, 2048, False), official_weights, INTERACTION_NAMES.get)
    kernels = torch.from_numpy(components["ffn_in"])[:, :, 0]
    ours = (kernels + module.ffn(kernels)).detach()
    np.testing.assert_allclose(ours, components["ffn_out"][:, :, 0], atol=1e-12)  # float64 on both sides


def test_attention_equals_torchs():
    module = make_interaction(placed=False)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": module.in_proj.weight,
            "in_proj_bias": module.in_proj.bias,
            "out_proj.weight": module.out_proj.weight,
            "out_proj.bias": module.out_proj.bias,
        }
    )
    kernels = random(2, 5, 16)
    attended, _ = theirs(kernels, kernels, kernels)
    expected = module.attention_norm(kernels + attended)
    expected = module.ffn_norm(expected + module.ffn(expected))
    torch.testing.assert_close(module(kernels, None, None), expected)


@pytest.mark.parametrize("placed", [False, True])
def test_slots_out_of_use_change_nothing_for_the_others(placed):
    module = make_interaction(placed)
    kernels, place = random(1, 6, 16), make_place(1, 6) if placed else None
    active = torch.tensor([[True, True, False, True, False, True]])
    changed = torch.where(active[:, :, None], kernels, 100 * random(1, 6, 17)[..., :16])
    ours, expected = module(changed, place, active)[active], module(kernels, place, active)[active]
    assert torch.equal(ours, expected)
    used = active[0].nonzero()[:, 0]
    alone = None
    if place is not None:
        alone = Place(place.centre[:, used], place.falloff[:, used], place.bias[:, used])
    torch.testing.assert_close(expected, module(kernels[:, used], alone, None)[0])


def test_kernels_attend_less_to_distant_ones():
    module = make_interaction(placed=True)
    module.distance_weight.data.fill_(3.0)
    kernels, one = random(1, 3, 16), torch.ones(1, 3, dtype=torch.float64)
    place = Place(torch.tensor([[[0.0, 0.0], [1.0, 0.0], [50.0, 50.0]]]).double(), one, one)
    moved = kernels.clone()
    moved[:, 2] = random(1, 16)
    difference = (module(moved, place, None) - module(kernels, place, None)).abs().amax(dim=2)[0]
    assert difference[:2].max() == 0  # exp(-3 * 5000) is 0
    moved = kernels.clone()
    moved[:, 1] = random(1, 16)
    difference = (module(moved, place, None) - module(kernels, place, None)).abs().amax(dim=2)[0]
    assert difference[0] > 1e-3


def test_a_place_is_kept_at_first_and_then_changed_within_bounds():
    module = PlaceUpdate(16).double()
    kernels, place = random(2, 5, 16), make_place(2, 5)
    place = dataclasses.replace(place, falloff=place.falloff * torch.tensor([0.0, 1, 1, 1, 1]))
    empty = torch.zeros(2, 5, 4, 4)
    kept = module(kernels, place, empty)
    assert torch.equal(kept.centre, place.centre)
    torch.testing.assert_close(kept.falloff, place.falloff.double())

    module.falloff_and_bias.weight.data.fill_(100.0)
    changed = module(kernels, place, empty).falloff
    assert (changed[:, 0] == 0).all()
    factor = changed[:, 1:] / place.falloff[:, 1:]
    assert factor.log().abs().max() <= 2 + 1e-6  # fp32 sums


def test_kernels_pass_undetached_and_masks_without_gradient(config):
    torch.manual_seed(0)
    stage = KernelUpdateHead(config).double()
    batch, num_kernels, channels = 2, config.num_kernels + config.num_stuff, config.channels
    weights = random(batch, num_kernels, channels).requires_grad_()
    mask_logits = random(batch, num_kernels, 8, 8).requires_grad_()
    place = make_place(batch, num_kernels) if config.first_kernels == "seeded" else None
    kernels, class_logits = stage(Kernels(weights, mask_logits, None, place), random(batch, channels, 8, 8))
    assert class_logits.shape == (batch, num_kernels, config.num_classes)
    assert kernels.mask_logits.shape == (batch, num_kernels, 8, 8)
    (kernels.mask_logits.square().mean() + class_logits.square().mean()).backward()
    assert weights.grad.abs().max() > 0
    assert mask_logits.grad is None
