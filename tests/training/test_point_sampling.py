import dataclasses

import pytest
import torch

from model.knet import KNet
from training.criterion import Criterion, make_criterion
from training.loss_config import LossConfig
from training.point_sampling import pixels_of, random_points, sample, uncertain_points
from training.recipes import SEEDED_LOSS
from training.targets import prepare_targets

PAPER = LossConfig(points=3000)
SMALL_OBJECTS = dataclasses.replace(SEEDED_LOSS, points=3000)
BOTH = pytest.mark.parametrize("loss", [PAPER, SMALL_OBJECTS], ids=["paper", "small_objects"])
CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def centres(height, width):
    """Points in the middles of all pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return torch.stack(((x + 0.5) / width, (y + 0.5) / height), dim=-1).flatten(0, 1)


def test_points_in_the_middle_of_pixels_are_the_pixels():
    maps = torch.randn(3, 4, 6, generator=seeded(), dtype=torch.float64)
    points = centres(4, 6)
    torch.testing.assert_close(sample(maps, points), maps.flatten(1))
    torch.testing.assert_close(sample(maps, points.expand(3, -1, -1)), maps.flatten(1))
    assert pixels_of(points, 4, 6).tolist() == list(range(24))


def test_between_pixels_a_point_is_bilinear_and_outside_their_centres_the_nearest():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 5.0]]])
    points = torch.tensor([[0.5, 0.5], [0.5, 0.25], [0.0, 0.0], [1.0, 1.0], [1.0, 0.5]])
    assert sample(maps, points).tolist() == [[2.0, 0.5, 0.0, 5.0, 3.0]]
    assert pixels_of(points, 2, 2).tolist() == [3, 1, 0, 3, 3]


def test_no_masks_have_no_values():
    assert sample(torch.zeros(0, 4, 4), torch.rand(7, 2)).shape == (0, 7)
    assert uncertain_points(torch.zeros(0, 4, 4), 8, seeded()).shape == (0, 8, 2)


def test_random_points_are_of_the_whole_map_and_of_the_seed():
    points = random_points(2, 1000, device=CPU, generator=seeded())
    assert points.shape == (2, 1000, 2)
    assert (points >= 0).all()
    assert (points <= 1).all()
    assert torch.allclose(points.mean(dim=1), torch.tensor(0.5), atol=0.05)
    assert torch.equal(points, random_points(2, 1000, device=CPU, generator=seeded()))
    assert not torch.equal(points, random_points(2, 1000, device=CPU, generator=seeded(1)))


def test_three_quarters_of_the_points_are_the_most_uncertain_of_three_times_as_many():
    y = torch.linspace(-1, 1, 64)
    masks = torch.stack((y[:, None].expand(64, 64), y[None].expand(64, 64) - 0.5))  # edges at rows 32, columns 48
    points = uncertain_points(masks, 400, seeded())
    logits = sample(masks, points).abs()
    # 300 of 1200 uniform candidates: a quarter of the map, the nearest to the edge.
    assert (logits[0, :300] < 0.3).all()
    assert (logits[0, 300:] > 0.3).float().mean() > 0.5  # the rest is anywhere
    assert (logits[1, :300] < 0.3).all()


@BOTH
def test_the_seed_decides_the_loss(cases, config, loss):
    output, truth = (
        cases.make_output(config, 2),
        cases.truths(config, cases.make_target(), cases.make_target(((0, 0, 32, 32),), (1,))),
    )
    criterion = make_criterion(config, loss)
    first, again = criterion(output, truth, seeded()), criterion(output, truth, seeded())
    other = criterion(output, truth, seeded(1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert set(first) == set(make_criterion(config, dataclasses.replace(loss, points=None))(output, truth))


@BOTH
def test_random_points_cost_what_pixels_cost_on_average(cases, config, loss, monkeypatch):
    """With points anywhere, instead of where masks are uncertain, the mean over many points is that over the pixels."""
    monkeypatch.setattr("training.point_sampling._UNCERTAIN_SHARE", 0.0)
    target = cases.make_target(((0, 0, 32, 32),), (1,))
    truth, output = cases.truths(config, target), cases.make_output(config, 1)
    # Smooth masks, so that bilinear values have the pixels' mean.
    for logits in output.mask_logits:
        logits.data = torch.nn.functional.avg_pool2d(logits.data, 9, 1, 4)
    loss = dataclasses.replace(loss, mask_normaliser="pixels", points=40_000)
    dense = make_criterion(config, dataclasses.replace(loss, points=None))(output, truth)
    sampled = make_criterion(config, loss)(output, truth, seeded())
    for name, value in dense.items():
        assert float(sampled[name].detach()) == pytest.approx(float(value.detach()), rel=0.05), name


@BOTH
def test_matches_are_those_of_the_pixels_where_masks_are_clear(cases, config, loss):
    target = cases.make_target()
    truth, output = cases.truths(config, target), cases.make_output(config, 1)
    for logits in output.mask_logits:
        logits.data.sub_(5)
        logits.data[0, [4, 1]] = 10 * truth[0].thing_masks - 5
    for logits in output.class_logits:
        logits.data.zero_()
    criterion = Criterion(config, loss)
    points = random_points(1, loss.points, device=CPU, generator=seeded())
    for (ours,), (theirs,) in zip(
        criterion.assign(output, truth, points), criterion.assign(output, truth), strict=True
    ):
        assert ours.kernel.tolist() == theirs.kernel.tolist()
        assert ours.target.tolist() == theirs.target.tolist()
    assert ours.kernel.tolist() == [1, 4]


@BOTH
@pytest.mark.parametrize("which", ["none_anywhere", "none_in_one_image", "no_things", "no_stuff"])
def test_missing_targets_give_finite_losses_and_gradients(cases, config, loss, which):
    targets = {
        "none_anywhere": [cases.make_empty_target()] * 2,
        "none_in_one_image": [cases.make_target(), cases.make_empty_target()],
        "no_things": [cases.make_target((), ())] * 2,
        "no_stuff": [cases.make_target(stuff=())] * 2,
    }[which]
    output = cases.make_output(config, 2)
    terms = make_criterion(config, loss)(output, cases.truths(config, *targets), seeded())
    cases.total(terms).backward()
    assert all(term.isfinite() for term in terms.values())
    for leaf in (*output.mask_logits, *output.class_logits, output.seg_logits):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_a_diverged_network_is_reported_by_the_loss_not_by_the_matching(cases, learned_config):
    output, truth = cases.make_output(learned_config, 1), cases.truths(learned_config, cases.make_target())
    output.mask_logits[0].data[0, 1] = torch.nan
    output.mask_logits[1].data[0, 2] = torch.inf
    terms = make_criterion(learned_config, PAPER)(output, truth, seeded())
    assert not cases.total(terms).isfinite()


def test_slots_out_of_use_cost_nothing(cases, seeded_config):
    truth, output = cases.truths(seeded_config, cases.make_target()), cases.make_output(seeded_config, 1)
    active = output.active.clone()
    active[0, 2:9] = False
    output = dataclasses.replace(output, active=active)
    cases.total(make_criterion(seeded_config, SMALL_OBJECTS)(output, truth, seeded())).backward()
    for leaf in (*output.mask_logits, *output.class_logits):
        assert (leaf.grad[~active] == 0).all()


def test_a_network_learns_from_points(cases, learned_config):
    torch.manual_seed(0)
    config, loss = learned_config, PAPER
    network = KNet(config).train()
    criterion, optimizer = make_criterion(config, loss), torch.optim.AdamW(network.parameters(), lr=3e-3)
    image = torch.randn(1, 3, cases.SIZE, cases.SIZE)
    truth = [prepare_targets(cases.make_target(), config)]
    totals = []
    for step in range(12):
        total = cases.total(criterion(network(image), truth, seeded(step)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize("points", [0, -5])
def test_a_number_of_points_that_is_not_one_is_refused(points):
    with pytest.raises(ValueError, match=f"points is {points}; legal: 1 and above, or None for all pixels"):
        LossConfig(points=points)
