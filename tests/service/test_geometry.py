import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.artifact import Geometry
from service.geometry import cells_to_image, common_sizes, draw_canvases, make_plan, scale_image

PAPER = Geometry(mode="shortest_edge", shortest=800, longest=1333, multiple=32)


def tile_geometry(*sizes: int, overlap: int = 0, scale: float = 1.0) -> Geometry:
    return Geometry(mode="tile", sizes=sizes, overlap=overlap, scale=scale)


@pytest.mark.parametrize(
    ("image_size", "canvas_size"),
    [((10, 10), (32, 32)), ((32, 33), (32, 64)), ((100, 20), (128, 32)), ((128, 128), (128, 128))],
)
def test_each_side_takes_the_smallest_canvas_that_holds_it(image_size, canvas_size):
    plan = make_plan(image_size, tile_geometry(32, 64, 128), 2)
    assert plan.canvas_size == canvas_size
    assert len(plan.tiles) == 1
    assert (plan.tiles[0].height, plan.tiles[0].width) == image_size


@given(
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    overlap=st.integers(0, 64),
    stride=st.sampled_from([1, 2, 4]),
)
def test_tiles_cover_the_image_and_overlap_as_asked(size, overlap, stride):
    plan = make_plan(size, tile_geometry(64, 128, overlap=overlap), stride)
    seen = np.zeros(size, int)
    for tile in plan.tiles:
        assert tile.top % stride == tile.left % stride == 0
        assert tile.height <= plan.canvas_size[0]
        assert tile.width <= plan.canvas_size[1]
        seen[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert seen.min() >= 1
    for starts in ({tile.top for tile in plan.tiles}, {tile.left for tile in plan.tiles}):
        ordered = sorted(starts)
        steps = np.diff(ordered)
        assert (steps <= 128 - overlap).all()
        assert len(steps) < 2 or steps.max() - steps.min() <= stride
    assert len(plan.tiles) == plan.num_rows * plan.num_columns


@given(size=st.tuples(st.integers(129, 700), st.integers(129, 700)))
def test_all_tiles_are_full_where_the_stride_divides_the_image(size):
    size = (size[0] // 4 * 4 + 4, size[1] // 4 * 4 + 4)
    plan = make_plan(size, tile_geometry(64, 128, overlap=32), 4)
    assert {(tile.height, tile.width) for tile in plan.tiles} == {(128, 128)}


@given(size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_fit_keeps_the_aspect_and_the_long_side_fits(size):
    plan = make_plan(size, Geometry(mode="fit", size=(64, 128)), 4)
    height, width = plan.scaled_size
    assert plan.canvas_size == (64, 128)
    assert height == 64 or width == 128
    assert height <= 64
    assert width <= 128
    ratio = min(64 / size[0], 128 / size[1])
    assert abs(height - size[0] * ratio) <= 1
    assert abs(width - size[1] * ratio) <= 1


@pytest.mark.parametrize(
    ("image_size", "scaled_size", "canvas_size"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((640, 480), (1067, 800), (1088, 800)),
        ((1200, 400), (1333, 444), (1344, 448)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((3000, 4000), (800, 1067), (800, 1088)),
        ((1, 1), (800, 800), (800, 800)),
        ((2, 3), (800, 1200), (800, 1216)),
        ((1, 5000), (1, 1333), (32, 1344)),
    ],
)
def test_shortest_edge_scales_as_the_paper_does(image_size, scaled_size, canvas_size):
    plan = make_plan(image_size, PAPER, 8)
    assert (plan.scaled_size, plan.canvas_size) == (scaled_size, canvas_size)
    (tile,) = plan.tiles
    assert (tile.top, tile.left, tile.height, tile.width) == (0, 0, *scaled_size)


@given(size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_shortest_edge_canvases_are_at_most_the_largest(size):
    plan = make_plan(size, PAPER, 8)
    assert all(side % 32 == 0 for side in plan.canvas_size)
    assert min(plan.canvas_size) <= 800
    assert max(plan.canvas_size) <= 1344
    assert sorted(PAPER.largest_canvas) == [800, 1344]
    assert all(0 <= canvas - side < 32 for canvas, side in zip(plan.canvas_size, plan.scaled_size, strict=True))


@pytest.mark.parametrize("size", [(100, 150), (20, 30)])
def test_shortest_edge_interpolates_whether_it_shrinks_or_grows(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    geometry = Geometry(mode="shortest_edge", shortest=64, longest=96, multiple=32)
    scaled = scale_image(image, make_plan(size, geometry, 1))
    np.testing.assert_array_equal(scaled, cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR))


def test_fit_shrinks_by_area():
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    scaled = scale_image(image, make_plan((100, 150), Geometry(mode="fit", size=(64, 96)), 1))
    np.testing.assert_array_equal(scaled, cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(
    ("geometry", "canvases"),
    [
        (PAPER, {(800, 1088), (1088, 800)}),
        (tile_geometry(32, 64, scale=2.0), {(32, 32), (64, 64)}),
        (Geometry(mode="fit", size=(32, 64)), {(32, 64)}),
    ],
)
def test_common_sizes_have_the_common_canvases(geometry, canvases):
    assert {make_plan(size, geometry, 1).canvas_size for size in common_sizes(geometry)} == canvases


def test_canvas_holds_the_content_at_the_top_left_and_zeros_elsewhere():
    image = np.full((20, 40, 3), 7, np.uint8)
    plan = make_plan((20, 40), tile_geometry(32, 64), 2)
    canvases = draw_canvases(scale_image(image, plan), plan, plan.tiles)
    assert canvases.shape == (1, 32, 64, 3)
    assert (canvases[0, :20, :40] == 7).all()
    assert canvases.sum() == 7 * image.size


def test_scale_enlarges_before_tiling():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    plan = make_plan((40, 30), tile_geometry(64, 128, scale=2.0), 4)
    assert plan.scaled_size == (80, 60)
    assert plan.canvas_size == (128, 64)
    assert scale_image(image, plan).shape == (80, 60, 3)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_cells_become_blocks_of_pixels(stride):
    plan = make_plan((9, 14), tile_geometry(32), stride)
    cells = np.arange(np.prod(plan.num_cells), dtype=np.int32).reshape(plan.num_cells)
    blocks = np.repeat(np.repeat(cells, stride, 0), stride, 1)[:9, :14]
    np.testing.assert_array_equal(cells_to_image(cells, plan), blocks)


def test_cells_of_an_enlarged_image_shrink_to_its_pixels():
    plan = make_plan((10, 8), tile_geometry(64, scale=2.0), 2)
    cells = np.arange(80, dtype=np.int32).reshape(10, 8)
    np.testing.assert_array_equal(cells_to_image(cells, plan), cells)


def test_cells_of_a_fitted_image_grow_to_its_pixels_by_nearest():
    plan = make_plan((40, 80), Geometry(mode="fit", size=(20, 40)), 1)
    cells = np.arange(800, dtype=np.int32).reshape(20, 40)
    np.testing.assert_array_equal(cells_to_image(cells, plan), np.repeat(np.repeat(cells, 2, 0), 2, 1))


@pytest.mark.parametrize(
    "geometry",
    [
        {"mode": "tile"},
        {"mode": "tile", "sizes": [64, 32]},
        {"mode": "tile", "sizes": [32, 32]},
        {"mode": "tile", "sizes": [0]},
        {"mode": "tile", "sizes": [32], "overlap": 17},
        {"mode": "tile", "sizes": [32], "size": [32, 32]},
        {"mode": "tile", "sizes": [32], "scale": 0},
        {"mode": "fit"},
        {"mode": "fit", "size": [32, 32], "overlap": 4},
        {"mode": "fit", "size": [32, 32], "sizes": [32]},
        {"mode": "fit", "size": [32, 32], "multiple": 32},
        {"mode": "shortest_edge", "size": [32, 32]},
        {"mode": "shortest_edge", "shortest": 32, "longest": 64},
        {"mode": "shortest_edge", "shortest": 65, "longest": 64, "multiple": 32},
        {"mode": "shortest_edge", "shortest": 32, "longest": 64, "multiple": 0},
        {"mode": "shortest_edge", "shortest": 32, "longest": 64, "multiple": 32, "scale": 2},
    ],
)
def test_senseless_geometry_is_refused(geometry):
    with pytest.raises(ValidationError):
        Geometry.model_validate(geometry)


def test_geometry_of_two_modes_is_told_what_its_own_needs():
    with pytest.raises(ValidationError, match="without size and with sizes and with overlap: it needs size"):
        Geometry(mode="fit", sizes=(32,), overlap=4)
