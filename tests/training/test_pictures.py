import io

import numpy as np
import pytest
from PIL import Image

from training.pictures import contact_sheet, draw_segments

CELL, DOT, GROUND = 0, 1, 2


@pytest.fixture
def gray() -> np.ndarray:
    return np.full((20, 40, 3), 100, np.uint8)


@pytest.fixture
def two_cells(by_hand):
    ids = np.zeros((20, 40), np.int32)
    ids[2:10, 2:10], ids[2:10, 12:20], ids[12:18, :30] = 1, 2, 3
    return by_hand.annotation(ids, [CELL, CELL, GROUND])


def draw(image, annotation, by_hand, **options):
    return draw_segments(image, annotation.layers, annotation.segments, by_hand.CATEGORIES, **options)


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_objects_of_a_class_differ_in_colour_and_are_outlined(gray, two_cells, by_hand):
    picture = draw(gray, two_cells, by_hand).astype(int)
    assert (picture[5, 5] != picture[5, 15]).any()
    assert (picture[2, 5] != picture[5, 5]).any()
    np.testing.assert_array_equal(picture[12, 5], picture[15, 5])  # stuff has no outline
    np.testing.assert_array_equal(picture[19], 100)  # void
    assert (gray == 100).all()


def test_a_later_layer_lies_on_top(gray, by_hand):
    layers = np.zeros((2, 20, 40), np.int32)
    layers[0, 2:12, 2:20], layers[1, 6:18, 6:30] = 1, 2
    both = draw(gray, by_hand.annotation(layers, [CELL, DOT]), by_hand)
    one = draw(gray, by_hand.annotation(layers[:1], [CELL, DOT]), by_hand)
    np.testing.assert_array_equal(both[3, 3], one[3, 3])
    assert (both[9, 9] != one[9, 9]).any()


@pytest.mark.parametrize(("side", "size"), [(80, (40, 80)), (10, (5, 10)), (40, (20, 40))])
def test_pictures_are_scaled_and_keep_their_outlines(gray, two_cells, by_hand, side, size):
    picture = draw(gray, two_cells, by_hand, longest_side=side)
    assert picture.shape == (*size, 3)
    assert (picture != 100).any()


def test_an_image_without_segments_and_layers_stays_as_it_is(gray, by_hand):
    nothing = draw_segments(gray, np.zeros((0, 20, 40), np.int32), (), by_hand.CATEGORIES)
    np.testing.assert_array_equal(nothing, gray)
    np.testing.assert_array_equal(draw(gray, by_hand.annotation(np.zeros((20, 40), np.int32), []), by_hand), gray)


def test_tiles_of_a_sheet_have_one_size_whatever_their_own(by_hand):
    tiles = [np.full((*size, 3), 200, np.uint8) for size in ((30, 30), (10, 60), (300, 20))]
    sheet = read(contact_sheet(tiles, ["a", "b", "c"], columns=2, tile_size=(50, 60)))
    rows, columns = sheet.shape[:2]
    assert columns == 2 * (60 + 6) + 6
    assert rows == 2 * (50 + 18 + 6) + 6
    is_tile = (sheet == 200).all(axis=2)
    assert is_tile[6:56, 6:66].sum() == 50 * 50  # the square one, enlarged
    assert is_tile[6:56, 72:132].sum() == 10 * 60
    assert is_tile[80:130, 6:66].sum() == 50 * 3


def test_captions_are_written_and_long_ones_shortened(by_hand):
    tile = np.full((20, 90, 3), 200, np.uint8)
    short, long = (
        read(contact_sheet([tile], [caption], columns=1, tile_size=(20, 90))) for caption in ("cells", "cells_" * 40)
    )
    assert short.shape == long.shape
    for sheet in (short, long):
        assert (sheet[28:] < 128).any()
        assert (sheet[28:, -6:] == 255).all()


def test_a_sheet_of_nothing_is_a_picture(by_hand):
    assert read(contact_sheet([], [], columns=3, tile_size=(20, 20))).ndim == 3
