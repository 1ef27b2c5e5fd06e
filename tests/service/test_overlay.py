import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service import overlay, rle
from service.artifact import ArtifactMetadata
from service.instances import Instances
from service.overlay import draw_overlay, panoptic_png
from service.segments import from_id_map, select


@pytest.fixture
def metadata(tiny, tmp_path) -> ArtifactMetadata:
    return tiny.write_artifact(tmp_path)


@pytest.fixture
def segmentation():
    """Two things of one class, stuff beside them, and void on the right."""
    id_map = np.zeros((20, 40), np.int32)
    id_map[2:10, 2:10] = 1
    id_map[2:10, 12:20] = 2
    id_map[12:18, :30] = 3
    return from_id_map(id_map, [0, 0, 2], [0.9, 0.8, 0.7])


@pytest.fixture
def gray() -> np.ndarray:
    return np.full((20, 40, 3), 100, np.uint8)


def test_void_keeps_its_pixels_and_the_image_is_left_alone(gray, segmentation, metadata):
    picture = draw_overlay(gray, segmentation, metadata, by_category=False)
    np.testing.assert_array_equal(picture[segmentation.id_map == 0], 100)
    assert (gray == 100).all()
    assert picture.dtype == np.uint8


def test_things_differ_in_colour_unless_drawn_by_category(gray, segmentation, metadata):
    picture = draw_overlay(gray, segmentation, metadata, by_category=False)
    assert (picture[5, 5] != picture[5, 15]).any()
    picture = draw_overlay(gray, segmentation, metadata, by_category=True)
    np.testing.assert_array_equal(picture[5, 5], picture[5, 15])
    assert picture[5, 5, 0] > picture[5, 5, 1]  # the category is red


def test_things_are_outlined_and_stuff_is_not(gray, segmentation, metadata):
    picture = draw_overlay(gray, segmentation, metadata, by_category=True).astype(int)
    assert picture[2, 5, 0] > picture[5, 5, 0]
    np.testing.assert_array_equal(picture[12, 5], picture[15, 5])
    assert picture[15, 5, 2] > picture[15, 5, 1]  # stuff has its category's blue


def test_stuff_alone_is_tinted_more_than_beside_things(gray, segmentation, metadata):
    beside = draw_overlay(gray, segmentation, metadata, by_category=True)[15, 5].astype(int)
    alone = draw_overlay(gray, select(segmentation, [2]), metadata, by_category=True)[15, 5].astype(int)
    assert (abs(alone - 100) > 1.5 * abs(beside - 100)).any()


def test_the_best_of_overlapping_masks_is_on_top_and_outlined_whole(gray, metadata):
    masks = np.zeros((2, 20, 40), np.int32)
    masks[0, 5:15, 10:30] = 1
    masks[1, :, :20] = 1
    segments = [from_id_map(mask, [0], [score]).segments[0] for mask, score in zip(masks, (0.9, 0.8), strict=True)]
    instances = Instances(
        image_size=(20, 40),
        segments=(segments[0], replace(segments[1], id=2)),
        counts=tuple(rle.encode(mask, [1])[0] for mask in masks),
    )
    picture = draw_overlay(gray, instances, metadata, by_category=False).astype(int)
    inside, shared, below = picture[10, 25], picture[10, 15], picture[10, 5]
    np.testing.assert_array_equal(inside, shared)
    assert (inside != below).any()
    for outline in (picture[5, 15], picture[10, 10], picture[14, 25], picture[10, 29]):
        np.testing.assert_array_equal(outline, picture[5, 25])
        assert np.abs(outline - 100).sum() > np.abs(inside - 100).sum()
    np.testing.assert_array_equal(picture[0, 30:], 100)


def test_panoptic_png_holds_large_ids():
    id_map = np.array([[0, 1, 255, 256, 65535, 65536, 16777215]], np.int32)
    picture = np.asarray(Image.open(io.BytesIO(panoptic_png(id_map)))).astype(int)
    np.testing.assert_array_equal(picture @ [1, 256, 65536], id_map)


def test_strips_leave_no_seam(monkeypatch):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (37, 23, 3), np.uint8)
    id_map = np.kron(random.integers(0, 5, (13, 8)), np.ones((3, 3), np.int32))[:37, :23].astype(np.int32)
    colours = random.integers(0, 256, (5, 3), np.uint8)
    is_thing = np.array([False, True, True, False, True])
    whole = overlay.paint(image, id_map, colours, is_thing)
    for pixels in (1, 23, 60, 200):
        monkeypatch.setattr(overlay, "_STRIP_PIXELS", pixels)
        np.testing.assert_array_equal(overlay.paint(image, id_map, colours, is_thing), whole)
