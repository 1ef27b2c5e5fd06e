import pytest
import torch
import torch.nn.functional as F

from model.kernels import OUTSIDE, Kernels, Place, assemble_group_features, filter_features


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_place(batch=2, num_kernels=5):
    """Kernel 0 of each image holds to no place."""
    falloff = random(batch, num_kernels).exp()
    falloff[:, 0] = 0
    votes = 4 * random(batch, 2, 6, 7)
    return Place(4 * random(batch, num_kernels, 2), falloff, random(batch, num_kernels), votes)


def test_filtering_is_a_1x1_convolution_of_each_image_by_its_kernels():
    weights, features = random(2, 5, 8), random(2, 8, 6, 7)
    expected = [F.conv2d(f[None], w[:, :, None, None]) for w, f in zip(weights, features, strict=True)]
    torch.testing.assert_close(filter_features(weights, features), torch.cat(expected))


def test_filtering_with_a_place_adds_its_logits():
    weights, features, place = random(2, 5, 8), random(2, 8, 6, 7), make_place()
    expected = filter_features(weights, features) + place.logits()
    torch.testing.assert_close(filter_features(weights, features, place), expected)


def test_pixels_outside_the_content_are_in_no_mask():
    valid = torch.ones(2, 1, 6, 7, dtype=torch.bool)
    valid[1, :, :, 4:] = False
    logits = filter_features(random(2, 5, 8), random(2, 8, 6, 7), valid=valid)
    assert (logits[1, :, :, 4:] == OUTSIDE).all()
    assert (logits[1, :, :, :4] != OUTSIDE).all()
    # Neither overflows, and both give probability 0.
    assert (logits.half()[1, :, :, 4:].sigmoid() == 0).all()
    assert (logits.float()[1, :, :, 4:].sigmoid() == 0).all()


def test_a_place_takes_from_a_pixel_the_squared_distance_of_its_vote():
    place = make_place()
    votes = place.votes.flatten(2).transpose(1, 2)
    expected = place.bias[:, :, None] - place.falloff[:, :, None] * torch.cdist(place.centre, votes).square()
    torch.testing.assert_close(place.logits().flatten(2), expected)


def test_a_place_far_from_the_middle_of_a_large_map_is_exact_to_a_hundredth_of_a_logit():
    y, x = torch.meshgrid(torch.arange(512) + 0.3, torch.arange(512) + 0.7, indexing="ij")
    place = Place(
        torch.tensor([[[500.0, 3.0]]]), torch.tensor([[0.5]]), torch.tensor([[1.5]]), torch.stack((y, x))[None]
    )
    expected = 1.5 - 0.5 * ((y.double() - 500) ** 2 + (x.double() - 3) ** 2)
    near = expected > -50
    assert (place.logits()[0, 0].double() - expected)[near].abs().max() < 0.05


def test_a_kernel_without_falloff_says_the_same_everywhere():
    place = make_place()
    logits = place.logits()[:, 0]
    torch.testing.assert_close(logits, place.bias[:, 0, None, None].expand(-1, 6, 7))


def test_distance_is_squared_and_0_where_a_kernel_holds_to_no_place():
    place = make_place()
    expected = torch.cdist(place.centre, place.centre).square()
    expected[:, 0, :] = 0
    expected[:, :, 0] = 0
    torch.testing.assert_close(place.distance(), expected)


def test_a_place_moves_to_the_centroid_of_its_mask():
    place = Place(torch.full((1, 3, 2), 9.0), torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(1, 2, 6, 8))
    masks = torch.zeros(1, 3, 6, 8)
    masks[0, 0, 1:4, 2:7] = 1  # rows 1 to 3, columns 2 to 6
    masks[0, 1, 5, 0:2] = 1  # 2 pixels: too small to say anything
    moved = place.moved_to(masks)
    assert moved.tolist() == [[[2.0, 4.0], [9.0, 9.0], [9.0, 9.0]]]


def test_a_large_mask_has_an_exact_centroid_in_half_precision_too():
    # 300 x 300 pixels: sums of rows and columns would leave fp16's range and precision.
    place = Place(torch.zeros(1, 1, 2), torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 2, 300, 300))
    assert place.moved_to(torch.ones(1, 1, 300, 300, dtype=torch.bfloat16)).tolist() == [[[149.5, 149.5]]]


def test_group_features_are_the_sum_inside_each_mask():
    masks, features = (random(2, 5, 6, 7) > 0).double(), random(2, 8, 6, 7)
    expected = (masks[:, :, None] * features[:, None]).sum(dim=(3, 4))
    torch.testing.assert_close(assemble_group_features(masks, features), expected)


def test_no_gradient_passes_through_hard_masks():
    logits = random(1, 2, 3, 3).requires_grad_()
    masks = Kernels(random(1, 2, 4), logits, None, None).hard_masks
    assert not masks.requires_grad
    assert masks.unique().tolist() == [0, 1]


@pytest.mark.parametrize("logit", [0.0, -0.0])
def test_a_probability_of_one_half_is_not_in_the_hard_mask(logit):
    assert Kernels(torch.zeros(1, 1, 1), torch.full((1, 1, 1, 1), logit), None, None).hard_masks.item() == 0
