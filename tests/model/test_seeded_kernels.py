import dataclasses

import pytest
import torch

from model.seeded_kernels import MIN_HEAT, SeededKernels


class Given(torch.nn.Module):
    """Stands for the heat-map head: gives the heat it was made with."""

    def __init__(self, heat):
        super().__init__()
        self.heat = heat

    def forward(self, hidden):
        return self.heat.logit(eps=1e-6)


def make_seeds(config, heat):
    """The module in evaluation mode, with this heat map (B, 1, h, w), and its maps."""
    torch.manual_seed(0)
    module = SeededKernels(config).eval()
    module.heat = Given(heat)
    maps = torch.randn(heat.shape[0], config.channels, *heat.shape[-2:])
    return module, maps


def test_each_local_maximum_becomes_a_kernel_the_highest_first(seeded_config):
    heat = torch.full((2, 1, 8, 10), 0.01)
    heat[0, 0, 2, 3], heat[0, 0, 2, 4] = 0.9, 0.8  # the second is beside a higher one
    heat[0, 0, 7, 9] = 0.95
    heat[1, 0, 0, 0] = 0.3
    module, maps = make_seeds(seeded_config, heat)
    kernels, heat_logits = module(maps, maps, None, None)
    assert kernels.active.sum(dim=1).tolist() == [2, 1]
    assert kernels.place.centre[0, :2].tolist() == [[7, 9], [2, 3]]
    assert kernels.place.centre[1, 0].tolist() == [0, 0]
    torch.testing.assert_close(heat_logits.sigmoid(), heat)


def test_a_kernel_is_a_linear_map_of_the_feature_at_its_seed(seeded_config):
    heat = torch.full((1, 1, 8, 10), 0.01)
    heat[0, 0, 2, 3] = 0.9
    module, maps = make_seeds(seeded_config, heat)
    kernels, _ = module(maps, maps, None, None)
    torch.testing.assert_close(kernels.weights[0, 0], module.kernel(maps[0, :, 2, 3]))


@pytest.mark.parametrize("radius", [4.3, 7.5])
def test_a_new_kernel_makes_a_disc_around_its_seed(seeded_config, radius):
    seeded_config = dataclasses.replace(seeded_config, seed_radius=radius)
    heat = torch.full((1, 1, 20, 20), 0.01)
    heat[0, 0, 9, 10] = 0.9
    module, maps = make_seeds(seeded_config, heat)
    y, x = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    module.kernel.bias.data.zero_()
    kernels, _ = module(torch.zeros_like(maps), maps, None, None)
    expected = (y - 9) ** 2 + (x - 10) ** 2 < radius**2
    assert torch.equal(kernels.hard_masks[0, 0] > 0, expected)


def test_weak_peaks_are_slots_out_of_use(seeded_config):
    heat = torch.zeros(1, 1, 8, 8)
    heat[0, 0, 1, 1], heat[0, 0, 5, 5] = MIN_HEAT * 1.1, MIN_HEAT * 0.9
    module, maps = make_seeds(seeded_config, heat)
    active = module(maps, maps, None, None)[0].active
    assert active.tolist() == [[True] + [False] * (seeded_config.num_kernels - 1)]


def test_nothing_outside_the_content_becomes_a_seed(seeded_config):
    heat = torch.zeros(1, 1, 8, 8)
    heat[0, 0, 1, 1], heat[0, 0, 5, 5] = 0.5, 0.9
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., 4:] = False
    module, maps = make_seeds(seeded_config, heat)
    kernels, _ = module(maps, maps, valid, None)
    assert kernels.active.sum() == 1
    assert kernels.place.centre[0, 0].tolist() == [1, 1]


def test_forced_cells_become_seeds_before_any_peak(seeded_config):
    heat = torch.zeros(1, 1, 8, 8)
    heat[0, 0, 1, 1] = 0.9
    forced = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    forced[0, 0, 6, 2] = forced[0, 0, 6, 3] = True  # neighbours: both
    module, maps = make_seeds(seeded_config, heat)
    kernels, _ = module(maps, maps, None, forced)
    assert kernels.active.sum() == 3
    assert sorted(kernels.place.centre[0, :2].tolist()) == [[6, 2], [6, 3]]
    assert kernels.place.centre[0, 2].tolist() == [1, 1]


def test_training_uses_its_own_number_of_kernels(seeded_config):
    module, maps = make_seeds(seeded_config, torch.rand(1, 1, 16, 16))
    assert module(maps, maps, None, None)[0].weights.shape[1] == seeded_config.num_kernels
    assert module.train()(maps, maps, None, None)[0].weights.shape[1] == seeded_config.num_training_kernels


def test_more_kernels_than_cells_of_the_smallest_canvas_are_refused(seeded_config):
    with pytest.raises(ValueError, match="num_kernels is 257; legal: for seeded kernels: up to 256"):
        dataclasses.replace(seeded_config, num_kernels=257)
    assert dataclasses.replace(seeded_config, num_kernels=256).num_kernels == 256


def test_every_pixel_votes_for_itself_at_first(seeded_config):
    module = SeededKernels(seeded_config)
    maps = torch.randn(1, seeded_config.channels, 16, 18)
    votes = module(maps, maps, None, None)[0].place.votes
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(18.0), indexing="ij")
    assert torch.equal(votes, torch.stack((y, x))[None])


def test_the_heat_map_learns_through_its_logits_alone_and_the_votes_through_the_masks(seeded_config):
    torch.manual_seed(0)
    module = SeededKernels(seeded_config)
    maps = torch.randn(1, seeded_config.channels, 16, 16)
    kernels, heat_logits = module(maps, maps, None, None)
    kernels.mask_logits.square().sum().backward(retain_graph=True)
    assert module.heat.weight.grad is None
    assert module.offsets.weight.grad.abs().max() > 0
    heat_logits.sum().backward()
    assert module.heat.weight.grad is not None
