import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import AugmentConfig
from training.copy_paste import Donor, paste
from training.data.open import open_data
from training.dataset import TrainingSamples
from training.sample_cache import SampleCache

PLAIN = AugmentConfig(crop_size=32, scale_jitter=1, pad_probability=0, noise_probability=0, blur_probability=0)


def donor_of(layers, pastable, first_id=10):
    return Donor(
        image=torch.full((3, *layers.shape[1:]), 200, dtype=torch.uint8),
        is_gray=False,
        layers=layers,
        is_pastable=torch.tensor(pastable),
        first_id=first_id,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 3), st.tuples(*[st.integers(3, 12)] * 4))
def test_pasted_objects_cover_what_they_hide_and_nothing_else(seed, num_layers, donor_layers, sizes):
    rng = np.random.default_rng(seed)
    height, width, donor_height, donor_width = sizes
    layers = torch.from_numpy(rng.integers(0, 4, (num_layers, height, width), dtype=np.int32))
    other = torch.from_numpy(rng.integers(0, 5, (donor_layers, donor_height, donor_width), dtype=np.int32))
    content = torch.zeros(3, height, width, dtype=torch.uint8)
    before = layers.clone()
    donor = donor_of(other, [True, False, True, True])
    new_content, new_layers = paste(content, layers, donor.image, other, donor, rng)
    covered = (new_content == 200).all(dim=0)
    pasted = new_layers > 10
    assert (pasted.any(dim=0) == covered).all()
    assert not pasted[1:].any()
    assert set(new_layers[pasted].tolist()) <= {11, 13, 14}  # the second segment is no object
    assert not new_layers[1:, covered].any()
    assert (new_layers[:, ~covered] == before[:, ~covered]).all()
    assert (layers == before).all()
    assert not content.any()


def test_gray_and_colour_can_be_pasted_on_each_other():
    layers = torch.ones(1, 4, 4, dtype=torch.int32)
    donor = donor_of(layers, [True])
    for seed in range(20):
        gray, rng = torch.zeros(1, 4, 4, dtype=torch.uint8), np.random.default_rng(seed)
        content, _ = paste(gray, layers, donor.image, layers, donor, rng)
        if content.any():
            assert content.shape == (3, 4, 4)
            return
    pytest.fail("nothing was pasted")


@pytest.fixture
def records(tmp_path, files):
    """Images of one gray value each with an object in the middle."""
    for number in range(6):
        labels = np.zeros((40, 40), np.uint8)
        labels[10:30, 10:30] = 1
        files.save(tmp_path / "images" / f"{number}.png", np.full((40, 40), 40 * number, np.uint8))
        files.save(tmp_path / "label_maps" / f"{number}.png", labels)
    return open_data(tmp_path, "train").records


def test_crops_have_objects_of_other_images_as_often_as_asked(records):
    config = dataclasses.replace(PLAIN, copy_paste_probability=0.8)
    samples = TrainingSamples(records, config, seed=0, things=(0,))
    counts = [int((samples[n][1].class_index == 0).sum()) for n in range(200)]
    assert set(counts) <= {0, 1, 2}
    assert 0.1 < counts.count(2) / 200 < 0.6  # half of the objects are pasted, and some hide the one below
    for n in range(20):
        masks = samples[n][1].masks
        assert (masks.sum(dim=0) <= 1).all()


def test_pasting_depends_on_seed_and_number_alone(records):
    config = dataclasses.replace(PLAIN, copy_paste_probability=0.5)
    one, other = (TrainingSamples(records, config, seed=3, things=(0,), cache_bytes=size) for size in (10**7, 0))
    forward = [one[n] for n in range(12)]
    for n in reversed(range(12)):
        assert torch.equal(other[n][0], forward[n][0])
        assert torch.equal(other[n][1].masks, forward[n][1].masks)
        assert torch.equal(one[n][0], forward[n][0])  # nor was a cached image changed


def test_probability_zero_changes_nothing(records):
    with_things, without = (TrainingSamples(records, PLAIN, seed=1, things=things) for things in ((0,), ()))
    assert all(torch.equal(with_things[n][0], without[n][0]) for n in range(8))


def test_pasting_without_things_is_refused(records):
    config = dataclasses.replace(PLAIN, copy_paste_probability=0.5)
    with pytest.raises(ValueError, match="the data has no things"):
        TrainingSamples(records, config, seed=0)


def test_cache_keeps_what_was_used_last_within_its_bytes():
    cache: SampleCache[str] = SampleCache(10)
    for key, size in ((1, 4), (2, 4)):
        cache.put(key, f"item {key}", size)
    assert cache.get(1) == "item 1"
    cache.put(3, "item 3", 4)
    assert [cache.get(key) for key in (1, 2, 3)] == ["item 1", None, "item 3"]
    cache.put(4, "too large", 11)
    assert cache.get(4) is None
    assert cache.get(3) == "item 3"
    cache.put(5, "all", 10)
    assert [cache.get(key) for key in (1, 3, 5)] == [None, None, "all"]
    none: SampleCache[str] = SampleCache(0)
    none.put(1, "item", 1)
    assert none.get(1) is None
    with pytest.raises(ValueError, match="cache_bytes is -1"):
        SampleCache(-1)
