import dataclasses

import pytest
import torch

from model.kernel_update import KernelInteraction, KernelUpdateHead, PlaceUpdate
from model.kernels import Kernels, Place


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_place(batch, num_kernels):
    votes = 5 * random(batch, 2, 8, 8)
    return Place(5 * random(batch, num_kernels, 2), random(batch, num_kernels).exp(), random(batch, num_kernels), votes)


def make_interaction(placed):
    torch.manual_seed(0)
    return KernelInteraction(16, 4, 32, reach=4.0 if placed else None).double().eval()


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
        alone = Place(place.centre[:, used], place.falloff[:, used], place.bias[:, used], place.votes)
    torch.testing.assert_close(expected, module(kernels[:, used], alone, None)[0])


def test_kernels_attend_less_to_distant_ones():
    module = make_interaction(placed=True)
    module.distance_weight.data.fill_(3.0)
    kernels, one = random(1, 3, 16), torch.ones(1, 3, dtype=torch.float64)
    place = Place(torch.tensor([[[0.0, 0.0], [1.0, 0.0], [50.0, 50.0]]]).double(), one, one, random(1, 2, 8, 8))
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
