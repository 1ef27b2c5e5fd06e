import torch
from torch import tensor

from training.targets import centre_heat, own_centres, paint, soft_masks


def make_disc(radius, y=15, x=15, size=32):
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (ys - y) ** 2 + (xs - x) ** 2 <= radius**2


def test_soft_masks_at_stride_2_are_means_of_four_pixels():
    masks = torch.rand(3, 8, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    expected = masks.float().unfold(1, 2, 2).unfold(2, 2, 2).mean(dim=(3, 4))
    torch.testing.assert_close(soft_masks(masks, 2), expected)


def test_soft_masks_at_stride_4_look_at_the_four_middle_pixels():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 1, 1] = masks[0, 0, 0] = masks[0, 5:7, 5:7] = True
    assert soft_masks(masks, 4).tolist() == [[[0.25, 0.0], [0.0, 1.0]]]


def test_no_masks_stay_none():
    assert soft_masks(torch.zeros(0, 8, 12, dtype=torch.bool), 4).shape == (0, 2, 3)
    assert soft_masks(torch.zeros(0, 8, 12, dtype=torch.bool), 4, torch.float64).dtype == torch.float64


def test_the_last_mask_that_covers_a_pixel_at_all_owns_it():
    masks = tensor([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.1, 0.2, 0.0]]])
    assert paint(masks, tensor([7, 3]), fill=-1).tolist() == [[7, 3, 3, -1]]


def test_nothing_painted_is_all_fill():
    assert paint(torch.zeros(0, 1, 2), torch.zeros(0, dtype=torch.int64), fill=9).tolist() == [[9, 9]]


def test_heat_is_1_at_centres_alone_and_falls_within_the_mask():
    masks = torch.stack((make_disc(3, 8, 8), make_disc(6, 20, 20))).float()
    heat, centres = centre_heat(masks)
    assert centres.nonzero().tolist() == [[8, 8], [20, 20]]
    assert torch.equal(heat == 1, centres)
    assert (heat[masks.sum(dim=0) == 0] == 0).all()
    assert (heat[20, 20:27].diff() < 0).all()


def test_cells_vote_for_the_centroid_of_the_mask_that_covers_them_most_and_weigh_its_area_and_radius():
    masks = torch.stack((make_disc(3, 8, 8), make_disc(6, 20, 20))).float()
    masks[0, 20, 20] = 0.2  # a little of the first lies under the second
    centre, weight = own_centres(masks[1:])
    assert (centre[:, masks[1] > 0] == 20).all()
    radius = (masks[1].sum() / torch.pi) ** 0.5
    torch.testing.assert_close(weight.sum() * radius, torch.tensor(1.0))
    centre, both = own_centres(masks)
    assert centre[:, 20, 20].tolist() == [20, 20]
    assert (both[masks.sum(dim=0) == 0] == 0).all()
    assert both[8, 8] > both[20, 20]


def test_nothing_votes_where_no_mask_is():
    centre, weight = own_centres(torch.zeros(0, 6, 8))
    assert centre.shape == (2, 6, 8)
    assert weight.sum() == 0


def test_the_width_of_the_heat_grows_with_the_object_but_never_vanishes():
    heat, _ = centre_heat(torch.stack((make_disc(0, 3, 3), make_disc(10, 18, 18))).float())
    pixels = float(make_disc(10).sum())
    sigma = 0.3 * (pixels / torch.pi) ** 0.5
    torch.testing.assert_close(heat[18, 20], torch.tensor(-4 / (2 * sigma**2)).exp())
    assert heat[3, 3] == 1


def test_the_centre_of_a_crescent_is_inside_it():
    mask = make_disc(9) & ~make_disc(8, 15, 19)
    heat, centres = centre_heat(mask[None].float())
    assert centres.sum() == 1
    assert mask[centres].all()
    assert heat.max() == 1


def test_a_mask_without_pixels_at_this_scale_has_no_centre():
    heat, centres = centre_heat(torch.stack((torch.zeros(32, 32), make_disc(3).float())))
    assert centres.sum() == 1
    heat, centres = centre_heat(torch.zeros(0, 4, 5))
    assert heat.shape == centres.shape == (4, 5)
    assert heat.sum() == centres.sum() == 0
