import numpy as np
import pytest

from service.artifact import Geometry
from service.geometry import Plan, make_plan
from service.join import Joined, TileResult, join_tiles

THING, OTHER_THING, STUFF = 0, 1, 2


def side_by_side(height: int = 32, width: int = 48) -> Plan:
    """Two tiles of 32 x 32 that share columns 16..31; the seam is at column 24."""
    plan = make_plan((height, width), Geometry(mode="tile", sizes=(32,), overlap=16), 1)
    assert [tile.left for tile in plan.tiles] == [0, 16]
    return plan


def result(id_map: np.ndarray, *classes: int, scores: tuple[float, ...] = ()) -> TileResult:
    classes_array = np.array(classes, np.int64)
    return TileResult(
        id_map=id_map.astype(np.int32),
        class_index=classes_array,
        score=np.array(scores or [0.5] * len(classes)),
        is_thing=classes_array != STUFF,
    )


def things_of(joined: Joined) -> list[np.ndarray]:
    return [joined.id_map == i for i in range(1, len(joined.class_index) + 1) if (joined.id_map == i).any()]


def box(columns: slice, rows: slice = slice(10, 20), size: tuple[int, int] = (32, 48)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def test_a_thing_on_the_seam_that_both_tiles_see_is_whole_and_one():
    whole = box(slice(18, 30))
    joined = join_tiles(
        [result(whole[:, :32], THING, scores=(0.6,)), result(whole[:, 16:], THING, scores=(0.9,))], side_by_side()
    )
    (mask,) = things_of(joined)
    np.testing.assert_array_equal(mask, whole)
    assert joined.score.tolist() == [0.9]


def test_a_thing_larger_than_the_overlap_is_whole():
    whole = box(slice(4, 44))
    joined = join_tiles([result(whole[:, :32], THING), result(whole[:, 16:], THING)], side_by_side())
    (mask,) = things_of(joined)
    np.testing.assert_array_equal(mask, whole)


@pytest.mark.parametrize("seen_by", [0, 1])
def test_a_thing_across_the_seam_that_one_tile_sees_is_not_cut(seen_by):
    whole, nothing = box(slice(18, 30)), np.zeros((32, 32))
    halves = [whole[:, :32], whole[:, 16:]]
    results = [result(half, THING) if side == seen_by else result(nothing) for side, half in enumerate(halves)]
    (mask,) = things_of(join_tiles(results, side_by_side()))
    np.testing.assert_array_equal(mask, whole)


def test_a_thing_that_one_tile_sees_does_not_cover_the_neighbours_things():
    left = result(box(slice(18, 30))[:, :32], THING)
    right = result(box(slice(27, 34))[:, 16:], OTHER_THING)
    masks = things_of(join_tiles([left, right], side_by_side()))
    np.testing.assert_array_equal(masks[0], box(slice(18, 27)))
    np.testing.assert_array_equal(masks[1], box(slice(27, 34)))


def test_a_thing_beyond_the_seam_that_its_owner_does_not_see_is_left_out():
    left = result(box(slice(26, 31))[:, :32], THING)
    assert things_of(join_tiles([left, result(np.zeros((32, 32)))], side_by_side())) == []


def test_things_of_different_classes_are_not_joined():
    whole = box(slice(18, 30))
    joined = join_tiles([result(whole[:, :32], THING), result(whole[:, 16:], OTHER_THING)], side_by_side())
    assert len(things_of(joined)) == 2


@pytest.mark.parametrize(("shift", "num_things"), [(3, 1), (5, 2)])
def test_things_are_joined_from_half_overlap_on(shift, num_things):
    # Boxes of 10 columns, shifted: IoU 7 / 13 and 5 / 15.
    left, right = box(slice(18, 28)), box(slice(18 + shift, 28 + shift))
    joined = join_tiles([result(left[:, :32], THING), result(right[:, 16:], THING)], side_by_side())
    assert len(things_of(joined)) == num_things


def test_stuff_is_joined_by_class_even_where_it_does_not_touch():
    joined = join_tiles(
        [
            result(box(slice(0, 5))[:, :32], STUFF, scores=(0.3,)),
            result(box(slice(40, 48))[:, 16:], STUFF, scores=(0.7,)),
        ],
        side_by_side(),
    )
    (mask,) = things_of(joined)
    np.testing.assert_array_equal(mask, box(slice(0, 5)) | box(slice(40, 48)))
    assert joined.score.tolist() == [0.7]


def test_a_thing_at_a_corner_of_four_tiles_is_whole_and_one():
    plan = make_plan((48, 48), Geometry(mode="tile", sizes=(32,), overlap=16), 1)
    whole = box(slice(18, 30), slice(18, 30), (48, 48))
    views = [whole[t.top : t.top + t.height, t.left : t.left + t.width] for t in plan.tiles]
    (mask,) = things_of(join_tiles([result(view, THING) for view in views], plan))
    np.testing.assert_array_equal(mask, whole)


@pytest.mark.parametrize("seen_by", range(4))
def test_a_thing_at_a_corner_that_one_tile_sees_is_not_cut(seen_by):
    plan = make_plan((48, 48), Geometry(mode="tile", sizes=(32,), overlap=16), 1)
    whole = box(slice(18, 30), slice(18, 30), (48, 48))
    results = []
    for number, tile in enumerate(plan.tiles):
        view = whole[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        results.append(result(view, THING) if number == seen_by else result(np.zeros((32, 32))))
    (mask,) = things_of(join_tiles(results, plan))
    np.testing.assert_array_equal(mask, whole)


def test_a_row_of_joined_things_is_one_thing():
    plan = make_plan((32, 80), Geometry(mode="tile", sizes=(32,), overlap=16), 1)
    whole = box(slice(0, 80), size=(32, 80))
    results = [result(whole[:, tile.left : tile.left + tile.width], THING) for tile in plan.tiles]
    (mask,) = things_of(join_tiles(results, plan))
    np.testing.assert_array_equal(mask, whole)
