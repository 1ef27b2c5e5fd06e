import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.matcher import MatcherConfig, cost_matrix, match


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def make_case(num_kernels, num_targets, seed=0, num_classes=3):
    target_class = torch.arange(num_targets) % num_classes
    return (
        3 * random(num_kernels, 4, 5, seed=seed),
        random(num_kernels, num_classes, seed=seed),
        random(num_targets, 4, 5, seed=seed).sigmoid(),
        target_class,
    )


def least_cost(cost):
    """By trying every way to give each target, or each kernel where they are fewer, another partner."""
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows, columns = range(cost.shape[0]), range(cost.shape[1])
    return min(
        sum(cost[row, column] for row, column in zip(chosen, columns, strict=True))
        for chosen in itertools.permutations(rows, len(columns))
    )


@pytest.mark.parametrize("mask_cost", ["agreement", "cross_entropy"])
@settings(max_examples=30, deadline=None)
@given(num_kernels=st.integers(1, 5), num_targets=st.integers(1, 5), seed=st.integers(0, 99), classes=st.booleans())
def test_the_pairs_cost_least_in_all(mask_cost, num_kernels, num_targets, seed, classes):
    masks, class_logits, targets, target_class = make_case(num_kernels, num_targets, seed)
    config = MatcherConfig(mask_cost=mask_cost)
    arguments = (masks, class_logits if classes else None, targets, target_class, config)
    pairs = match(*arguments)
    assert len(pairs.kernel) == len(pairs.target) == min(num_kernels, num_targets)
    assert pairs.kernel.tolist() == sorted({*pairs.kernel.tolist()})
    assert len({*pairs.target.tolist()}) == len(pairs.target)
    cost = cost_matrix(*arguments)
    # The same few sums in another order.
    assert float(cost[pairs.kernel, pairs.target].sum()) == pytest.approx(float(least_cost(cost)), abs=1e-9)


def test_costs_are_those_of_the_formulas():
    masks, class_logits, targets, target_class = make_case(3, 2)
    config = MatcherConfig(class_weight=2.0, mask_weight=1.5, dice_weight=4.0)
    cost = cost_matrix(masks, class_logits, targets, target_class, config)
    probs = 1 / (1 + np.exp(-masks.numpy()))
    for n, t in itertools.product(range(3), range(2)):
        a, b = probs[n].ravel(), targets[t].numpy().ravel()
        dice = -2 * (a * b).sum() / ((a * a).sum() + 1e-3 + (b * b).sum() + 1e-3)
        agreement = -np.mean(a * b + (1 - a) * (1 - b))
        p = 1 / (1 + math.exp(-class_logits[n, target_class[t]]))
        focal = -0.25 * (1 - p) ** 2 * math.log(p + 1e-12) + 0.75 * p**2 * math.log(1 - p + 1e-12)
        assert float(cost[n, t]) == pytest.approx(2 * focal + 1.5 * agreement + 4 * dice, rel=1e-9)  # float64


def test_cross_entropy_cost_is_over_the_targets_area_and_bounded():
    masks, _, targets, target_class = make_case(3, 2)
    masks[2] = 1000.0
    config = MatcherConfig(dice_weight=0.0, mask_cost="cross_entropy")
    cost = cost_matrix(masks, None, targets, target_class, config)
    for n, t in itertools.product(range(2), range(2)):
        x, y = masks[n].numpy(), targets[t].numpy()
        total = (np.log1p(np.exp(x)) - x * y).sum() / (y.sum() + 16)
        assert float(cost[n, t]) == pytest.approx(total, rel=1e-9)  # float64
    assert (cost[2] == 20).all()


@pytest.mark.parametrize("seed", range(5))
def test_kernels_out_of_use_are_never_matched(seed):
    masks, class_logits, targets, target_class = make_case(6, 3, seed)
    active = torch.tensor([False, True, False, True, True, False])
    pairs = match(masks, class_logits, targets, target_class, MatcherConfig(), active)
    assert len(pairs.kernel) == 3
    assert active[pairs.kernel].all()
    alone = match(masks[active], class_logits[active], targets, target_class, MatcherConfig())
    assert pairs.kernel.tolist() == active.nonzero()[:, 0][alone.kernel].tolist()
    assert pairs.target.tolist() == alone.target.tolist()


def test_with_more_targets_than_kernels_every_kernel_is_matched():
    pairs = match(*make_case(2, 5), MatcherConfig())
    assert pairs.kernel.tolist() == [0, 1]
    assert len({*pairs.target.tolist()}) == 2


@pytest.mark.parametrize(("num_kernels", "num_targets"), [(4, 0), (0, 3), (0, 0)])
def test_nothing_to_match_gives_no_pairs(num_kernels, num_targets):
    pairs = match(*make_case(num_kernels, num_targets), MatcherConfig())
    assert pairs.kernel.tolist() == pairs.target.tolist() == []
    assert pairs.kernel.dtype == pairs.target.dtype == torch.int64


def test_no_kernel_in_use_gives_no_pairs():
    pairs = match(*make_case(4, 2), MatcherConfig(), torch.zeros(4, dtype=torch.bool))
    assert pairs.kernel.tolist() == pairs.target.tolist() == []


def test_a_diverged_network_does_not_stop_the_matching():
    masks, class_logits, targets, target_class = make_case(4, 2)
    masks[1], class_logits[2] = math.nan, math.inf
    assert len(match(masks, class_logits, targets, target_class, MatcherConfig()).kernel) == 2


def test_an_unknown_mask_cost_is_refused():
    with pytest.raises(ValueError, match="mask_cost is 'l1'; legal: agreement, cross_entropy"):
        MatcherConfig(mask_cost="l1")
