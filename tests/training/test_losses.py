import math

import pytest
import torch
from torch import tensor

from training import losses

LOG2, LOG3, LOG4 = math.log(2), math.log(3), math.log(4)
# sigmoid(ln 3) = 3/4


def double(values):
    return tensor(values, dtype=torch.float64)


def test_focal_loss_of_known_probabilities():
    logits, targets = double([LOG3, LOG3, -LOG3, 0.0]), double([1.0, 0.0, 1.0, 0.0])
    expected = double(
        [
            0.25 * (1 / 4) ** 2 * math.log(4 / 3),
            0.75 * (3 / 4) ** 2 * LOG4,
            0.25 * (3 / 4) ** 2 * LOG4,
            0.75 * (1 / 2) ** 2 * LOG2,
        ]
    )
    torch.testing.assert_close(losses.focal(logits, targets), expected)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_focal_loss_of_a_map_is_that_of_one_hot_targets(scale):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 4, 5), generator=generator)  # 3: a negative of every class
    one_hot = torch.nn.functional.one_hot(labels, 4)[..., :3].permute(0, 3, 1, 2).double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, expected = losses.focal_sum(ours, labels), losses.focal(theirs, one_hot).sum()
    torch.testing.assert_close(total, expected)
    total.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_softplus_is_torchs_with_its_gradient():
    ours = torch.linspace(-40, 40, 81, dtype=torch.float64).requires_grad_()  # 0 is among them
    theirs = ours.detach().clone().requires_grad_()
    torch.testing.assert_close(losses.softplus(ours), torch.nn.functional.softplus(theirs, threshold=50))
    losses.softplus(ours).sum().backward()
    torch.nn.functional.softplus(theirs, threshold=50).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_dice_loss_of_known_masks():
    masks = double([[[LOG3, LOG3], [0.0, -LOG3]], [[-50.0, -50.0], [-50.0, -50.0]]])  # 3/4 3/4 1/2 1/4; nothing
    targets = double([[[1.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    overlap, sizes = 3 / 4 + 3 / 8, (9 + 9 + 4 + 1) / 16 + 5 / 4
    expected = double([1 - 2 * overlap / (sizes + 2e-3), 1.0])
    torch.testing.assert_close(losses.dice(masks, targets), expected)


def test_cross_entropy_is_a_mean_over_pixels_or_a_sum_over_the_area():
    masks = double([[[LOG3, -LOG3], [0.0, 0.0]]])
    targets = double([[[1.0, 1.0], [0.0, 0.5]]])
    total = math.log(4 / 3) + LOG4 + LOG2 + LOG2
    torch.testing.assert_close(losses.cross_entropy(masks, targets, by_area=False), double([total / 4]))
    torch.testing.assert_close(losses.cross_entropy(masks, targets, by_area=True), double([total / (2.5 + 16)]))


def test_rank_loss_is_a_softmax_across_kernels_at_each_owned_pixel():
    mask_logits = double([[[[LOG3, 5.0]], [[0.0, -5.0]]]])  # two kernels, two pixels
    assert losses.rank(mask_logits, tensor([[[0, -1]]])).tolist() == [[[pytest.approx(math.log(4 / 3)), 0.0]]]
    assert losses.rank(mask_logits, tensor([[[1, -1]]])).tolist() == [[[pytest.approx(LOG4), 0.0]]]


def test_rank_loss_of_pixels_without_owner_has_no_gradient():
    mask_logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    losses.rank(mask_logits, tensor([[[0, -1]]])).mean().backward()
    assert mask_logits.grad[0, :, 0].T.tolist() == [[-0.25, 0.25], [0, 0]]


def test_heat_loss_of_known_values():
    heat_logits = double([[[[LOG3, LOG3, 0.0, -LOG3]]]])
    target = double([[[[1.0, 0.5, 0.0, 1.0]]]])
    at_centres = (1 / 4) ** 2 * math.log(4 / 3) + (3 / 4) ** 2 * LOG4
    elsewhere = (3 / 4) ** 2 * 0.5**4 * LOG4 + (1 / 2) ** 2 * LOG2
    assert float(losses.heat_focal(heat_logits, target)) == pytest.approx(at_centres + elsewhere)


def test_heat_loss_without_centres_is_finite():
    loss = losses.heat_focal(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert float(loss) == pytest.approx(4 * 0.25 * LOG2)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_losses_of_extreme_logits_are_finite_and_have_finite_gradients(logit):
    logits = torch.full((1, 2, 2), logit, requires_grad=True)
    targets = tensor([[[0.0, 1.0], [0.5, 0.0]]])
    total = losses.focal(logits, targets).sum() + losses.dice(logits, targets).sum()
    total = total + losses.cross_entropy(logits, targets, by_area=True).sum()
    total = total + losses.heat_focal(logits[None], targets[None])
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()
