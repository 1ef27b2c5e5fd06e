import dataclasses

import numpy as np
import pytest
import torch

from training.augment import UNCHANGED, AugmentConfig, augment, change_pixels, scaled_crop

GEOMETRY_ONLY = dataclasses.replace(
    UNCHANGED, crop_size=48, scale_jitter=1.4, pad_probability=0.15, flip_probability=0.5, turns=True
)


def painted(height=100, width=70, cell=10):
    """An id-map of squares and an image of whose colours each tells its id: 20 x id, then 255 - that."""
    y, x = torch.meshgrid(torch.arange(height) // cell, torch.arange(width) // cell, indexing="ij")
    ids = ((3 * y + x * x + y * x) % 11 + 1).to(torch.int32)
    value = (20 * ids).to(torch.uint8)
    return torch.stack([value, 255 - value, value]), ids


def random_image(channels=3, size=64, seed=0):
    image = torch.randint(30, 220, (channels, size, size), generator=torch.Generator().manual_seed(seed))
    return image.to(torch.uint8).expand(3, -1, -1)


def run(image, ids, config, seed, is_gray=False):
    return augment(image, ids[None], is_gray=is_gray, config=config, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("scale_jitter", [1.0, 1.5])
@pytest.mark.parametrize("size", [(100, 70), (33, 200), (30, 20)])
def test_ids_follow_the_image_through_every_geometric_change(scale_jitter, size):
    config = dataclasses.replace(GEOMETRY_ONLY, scale_jitter=scale_jitter, pad_probability=0.5)
    image, ids = painted(*size)
    inside = total = 0
    for seed in range(60):
        crop = run(image, ids, config, seed)
        height, width = crop.valid_size
        expected = 20 * crop.layers[0, :height, :width]
        difference = (crop.image[0, :height, :width].int() - expected).abs()
        assert (crop.layers[0, :height, :width] > 0).all()
        if scale_jitter == 1:
            assert difference.max() <= 1  # of rounding in colour space
        inside += int((difference <= 1).sum())
        total += difference.numel()
    assert inside / total > 0.80  # resized pixels at the borders of the squares are mixtures


def test_resized_ids_are_not_offset_against_the_image():
    ids = torch.arange(1, 101, dtype=torch.int32).expand(100, 100).contiguous()
    image = (2 * ids).to(torch.uint8).expand(3, -1, -1)
    config = dataclasses.replace(GEOMETRY_ONLY, scale_jitter=1.5, pad_probability=0)
    offsets = []
    for seed in range(40):
        content, cut = scaled_crop(image, ids[None], config, np.random.default_rng(seed))
        offsets.append(float((content[0] / 2 - cut).mean()))
    assert abs(np.mean(offsets)) < 0.1  # source pixels; interpolation "nearest" is off by 0.4


def test_all_eight_orientations_occur_and_only_those():
    image, ids = painted(48, 48)
    config = dataclasses.replace(GEOMETRY_ONLY, scale_jitter=1, pad_probability=0)
    variants = [torch.rot90(m, k) for m in (ids, ids.flip(1)) for k in range(4)]
    seen = set()
    for seed in range(80):
        crop = run(image, ids, config, seed)
        (match,) = [number for number, variant in enumerate(variants) if torch.equal(variant, crop.layers[0])]
        seen.add(match)
    assert seen == set(range(8))
    upright = dataclasses.replace(config, turns=False, flip_probability=0)
    assert all(torch.equal(run(image, ids, upright, seed).layers[0], ids) for seed in range(5))


def test_scale_stays_in_its_range_and_reaches_both_ends():
    ids = torch.arange(400, dtype=torch.int32)[:, None].expand(400, 400).contiguous() + 1
    config = dataclasses.replace(GEOMETRY_ONLY, scale_jitter=1.5, pad_probability=0, turns=False)
    image = torch.zeros(3, 400, 400, dtype=torch.uint8)
    heights = []  # of the source box, from the first and last row of it that is seen
    for seed in range(200):
        seen = run(image, ids, config, seed).layers[0, [0, -1], 0]
        heights.append(int(seen[1] - seen[0]) + 1)
    assert min(heights) == pytest.approx(48 / 1.5, abs=2)
    assert max(heights) == pytest.approx(48 * 1.5, abs=2)
    assert 80 < sum(height < 48 for height in heights) < 120  # as often enlarged as shrunk


def test_small_image_is_padded_at_right_and_bottom_with_zeros_whatever_the_colours():
    image, ids = random_image(size=30), torch.ones(30, 30, dtype=torch.int32)
    config = AugmentConfig(crop_size=48, scale_jitter=1.2, invert_probability=0.5, noise_probability=1)
    for seed in range(30):
        crop = run(image, ids, config, seed)
        height, width = crop.valid_size
        assert 30 / 1.2 - 1 <= height <= 36
        assert 30 / 1.2 - 1 <= width <= 36
        assert crop.image.shape == (3, 48, 48)
        assert (crop.layers[0, :height, :width] == 1).all()
        for outside in (
            crop.image[:, height:],
            crop.image[:, :, width:],
            crop.layers[0, height:],
            crop.layers[0, :, width:],
        ):
            assert not outside.any()


def test_share_of_deliberate_padding():
    image, ids = random_image(size=200), torch.ones(200, 200, dtype=torch.int32)
    config = dataclasses.replace(GEOMETRY_ONLY, pad_probability=0.5)
    sizes = [run(image, ids, config, seed).valid_size for seed in range(300)]
    padded = [size for size in sizes if size != (48, 48)]
    assert 100 < len(padded) < 200
    assert all(24 <= side <= 48 for size in padded for side in size)
    assert {(height < 48, width < 48) for height, width in padded} >= {(True, False), (False, True), (True, True)}
    never = dataclasses.replace(config, pad_probability=0)
    assert all(run(image, ids, never, seed).valid_size == (48, 48) for seed in range(20))


def test_gray_stays_gray_and_colour_changes_each_channel():
    ids = torch.ones(64, 64, dtype=torch.int32)
    config = AugmentConfig(crop_size=48, noise_probability=1, blur_probability=1, gray_probability=0)
    for seed in range(20):
        gray = run(random_image(channels=1), ids, config, seed, is_gray=True).image
        assert torch.equal(gray[0], gray[1])
        assert torch.equal(gray[0], gray[2])
        colour = run(random_image(), ids, config, seed).image
        assert not torch.equal(colour[0], colour[1])


def test_colour_turns_gray_as_often_as_asked():
    ids = torch.ones(64, 64, dtype=torch.int32)
    config = dataclasses.replace(GEOMETRY_ONLY, gray_probability=0.5)
    images = [run(random_image(), ids, config, seed).image for seed in range(100)]
    assert 30 < sum(torch.equal(image[0], image[1]) for image in images) < 70


def test_without_changes_the_pixels_are_untouched():
    image, ids = random_image(size=48), torch.ones(48, 48, dtype=torch.int32)
    config = dataclasses.replace(GEOMETRY_ONLY, scale_jitter=1, pad_probability=0, turns=False, flip_probability=0)
    crop = run(image, ids, config, 0)
    assert (crop.image.int() - image.int()).abs().max() <= 1  # of rounding, through optical density and back
    assert crop.pixel_mean == pytest.approx(float(image.float().mean()), abs=0.5)
    assert crop.pixel_std == pytest.approx(float(image.float().std()), abs=0.5)


def test_inversion_takes_the_statistics_along():
    image, ids = random_image(channels=1, size=48), torch.ones(48, 48, dtype=torch.int32)
    config = dataclasses.replace(
        GEOMETRY_ONLY, scale_jitter=1, pad_probability=0, turns=False, flip_probability=0, invert_probability=1
    )
    crop = run(image, ids, config, 0, is_gray=True)
    assert torch.equal(crop.image, 255 - image)
    assert crop.pixel_mean == pytest.approx(255 - float(image.float().mean()), abs=1e-3)


def test_gain_and_shift_are_about_the_mean_of_the_whole_image():
    config = dataclasses.replace(GEOMETRY_ONLY, gain=0.35, shift=0.25)
    sketch = torch.tensor([[80, 100, 120]], dtype=torch.uint8)  # mean 100, deviation 20
    content = torch.tensor([[[100, 120]]], dtype=torch.uint8)
    shifts, gains = [], []
    for seed in range(200):
        changed, mean, std = change_pixels(content, sketch, config, np.random.default_rng(seed))
        assert (mean, std) == (100, 20)
        low, high = changed.flatten().tolist()
        shifts.append(low - 100)
        gains.append((high - low) / 20)
    assert (min(shifts), max(shifts)) == (-5, 5)
    assert min(gains) == pytest.approx(np.exp(-0.35), abs=0.06)
    assert max(gains) == pytest.approx(np.exp(0.35), abs=0.06)


def test_same_generator_same_crop_whatever_torch_has_drawn():
    image, ids = random_image(), torch.ones(64, 64, dtype=torch.int32)
    config = AugmentConfig(crop_size=48, noise_probability=1, blur_probability=1)
    first = run(image, ids, config, 5)
    torch.rand(3)
    state = torch.random.get_rng_state()
    second = run(image, ids, config, 5)
    assert torch.equal(first.image, second.image)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first.image, run(image, ids, config, 6).image)


def test_source_is_left_alone():
    image, ids = random_image(), torch.ones(64, 64, dtype=torch.int32)
    before = image.clone()
    for seed in range(10):
        run(image, ids, AugmentConfig(crop_size=64, scale_jitter=1), seed)
    assert torch.equal(image, before)
    assert (ids == 1).all()


def test_large_ids_survive_resizing():
    ids = torch.full((100, 100), 256**3 - 1, dtype=torch.int32)
    config = dataclasses.replace(GEOMETRY_ONLY, scale_jitter=2)
    for seed in range(5):
        _, cut = scaled_crop(random_image(size=100), ids[None], config, np.random.default_rng(seed))
        assert cut.unique().tolist() == [256**3 - 1]


@pytest.mark.parametrize("size", [(400, 300), (60, 90)])
def test_fit_placement_scales_by_the_image_and_not_by_its_pixels(size):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    ids = torch.ones(size, dtype=torch.int32)
    config = dataclasses.replace(GEOMETRY_ONLY, placement="fit", fit_scale=(0.5, 0.5), pad_probability=0, turns=False)
    valid_size = run(image, ids, config, 0).valid_size
    assert max(valid_size) == 24  # half of the crop
    assert min(valid_size) == round(24 * min(size) / max(size))
    wide = dataclasses.replace(config, fit_scale=(0.1, 2.0))
    sizes = [max(run(image, ids, wide, seed).valid_size) for seed in range(200)]
    assert min(sizes) < 8
    assert 0.4 < sum(side == 48 for side in sizes) / 200 < 0.65  # factors of 1 and above fill the crop


def test_layers_stay_together():
    _, ids = painted()
    layers = torch.stack([ids, ids.flip(0).contiguous(), ids])
    for seed in range(20):
        crop = augment(
            random_image(size=100)[:, :, :70],
            layers,
            is_gray=False,
            config=dataclasses.replace(GEOMETRY_ONLY, scale_jitter=1.5),
            rng=np.random.default_rng(seed),
        )
        assert torch.equal(crop.layers[0], crop.layers[2])
        assert not torch.equal(crop.layers[0], crop.layers[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_size": 0}, "crop_size is 0"),
        ({"scale_jitter": 0.9}, r"scale_jitter is 0\.9; legal: 1"),
        ({"flip_probability": 1.5}, r"flip_probability is 1\.5; legal: 0 to 1"),
        ({"noise": -1}, "noise is -1"),
        ({"placement": "middle"}, "placement is 'middle'; legal: native, fit"),
        ({"fit_scale": (0.5, 0.1)}, r"fit_scale is \(0\.5, 0\.1\); legal: two numbers above 0"),
    ],
)
def test_illegal_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**change)
