"""Views of an image: with maps made by hand, and with a graph that sees whatever lies in an image."""

from collections import Counter

import numpy as np
import pytest

from service.artifact import Geometry
from service.errors import InvalidParameterError
from service.segmenter import Segmenter
from service.segments import from_id_map
from service.session import OnnxSession
from service.views import MAX_PIXELS, VIEWS, _vote, combine, pixels_of, segment_views, turn, turn_back

IS_THING = np.array([True, True, False])
STUFF = 2


def view(*boxes, size=(20, 30)):
    """Things as (class index, score, top, left, bottom, right) on stuff."""
    id_map = np.ones(size, np.int32)
    for number, (_, _, top, left, bottom, right) in enumerate(boxes, start=2):
        id_map[top:bottom, left:right] = number
    return from_id_map(id_map, [STUFF, *(box[0] for box in boxes)], [1.0, *(box[1] for box in boxes)])


def things(result):
    return sorted(
        (s.class_index, round(s.score, 6), s.area, s.bbox) for s in result.segments if IS_THING[s.class_index]
    )


def combined(*views, score_threshold=0.45, min_area=1):
    return combine(views, IS_THING, score_threshold=score_threshold, min_area=min_area)


def test_views_that_agree_give_what_each_gave():
    one = view((0, 0.9, 2, 3, 8, 9), (1, 0.6, 10, 12, 19, 25))
    result = combined(one, one, one)
    assert np.array_equal(result.id_map, one.id_map)
    assert result.segments == one.segments


def test_scores_are_means_and_masks_what_most_views_say():
    result = combined(
        view((0, 0.9, 2, 2, 10, 10)), view((0, 0.6, 2, 3, 10, 11)), view((0, 0.3, 2, 3, 10, 11)), score_threshold=0.6
    )
    assert things(result) == [(0, 0.6, 64, (3, 2, 8, 8))]


def test_what_few_views_see_loses_its_score_and_is_dropped():
    seen, unseen = view((0, 0.9, 2, 2, 10, 10)), view()
    assert things(combined(seen, unseen, unseen)) == []
    assert things(combined(seen, seen, unseen)) == [(0, 0.6, 64, (2, 2, 8, 8))]
    assert things(combined(seen, seen, unseen, min_area=65)) == []


def test_of_two_views_the_first_draws_the_mask():
    first, second = view((0, 0.8, 2, 2, 10, 10)), view((0, 0.6, 2, 3, 12, 10))
    assert things(combined(first, second)) == [(0, 0.7, 64, (2, 2, 8, 8))]


def test_neighbours_stay_apart_and_classes_are_not_mixed():
    whole, halves = view((0, 0.9, 2, 2, 10, 18)), view((0, 0.8, 2, 2, 10, 10), (0, 0.8, 2, 10, 10, 18))
    result = combined(halves, halves, whole)
    assert [area for _, _, area, _ in things(result)] == [64, 64]
    other = view((1, 0.9, 2, 2, 10, 10))
    mixed = combined(other, view((0, 0.9, 2, 2, 10, 10)), other)
    assert things(mixed) == [(1, 0.6, 64, (2, 2, 8, 8))]


@pytest.mark.parametrize("seed", range(4))
def test_each_pixel_goes_to_the_number_that_most_maps_give_it(seed, monkeypatch):
    monkeypatch.setattr("service.views._STRIP_PIXELS", 20)
    rng = np.random.default_rng(seed)
    id_maps = list(rng.integers(0, 5, (5, 9, 7)).astype(np.int32))
    lookups = list(rng.integers(0, 4, (5, 5)).astype(np.int32))
    result = _vote(id_maps, lookups)
    for y, x in np.ndindex(9, 7):
        given = [int(lookup[ids[y, x]]) for ids, lookup in zip(id_maps, lookups, strict=True)]
        counted = Counter(number for number in given if number)  # of equals the first comes first
        assert result[y, x] == (counted.most_common(1)[0][0] if counted else 0)


@pytest.mark.parametrize("orientation", range(8))
def test_each_orientation_is_undone(orientation):
    array = np.arange(12).reshape(3, 4)
    assert np.array_equal(turn_back(turn(array, orientation), orientation), array)
    others = [turn(array, other) for other in range(8) if other != orientation]
    assert not any(np.array_equal(turn(array, orientation), other) for other in others)


@pytest.fixture
def segmenter(tiny, tmp_path):
    metadata = tiny.write_artifact(tmp_path, geometry=Geometry(mode="tile", sizes=(64,), overlap=24))
    return Segmenter(metadata, OnnxSession(tmp_path / "tiny" / "1" / "model.onnx", threads=1))


def test_a_scene_is_seen_alike_in_all_views(segmenter):
    scene = np.full((50, 40, 3), 12, np.uint8)
    scene[4:24, 6:16, 0] = 11  # beside 12, so that no value between them is a third slot
    once, often = (segment_views(segmenter, scene, views=views, score_threshold=0) for views in (1, len(VIEWS)))
    assert once.segments == segmenter.segment(scene, score_threshold=0).segments
    assert np.array_equal(once.id_map, often.id_map)
    assert often.segments == once.segments
    assert len(once.segments) == 2


def test_illegal_views_are_refused_with_what_is_legal(segmenter, tiny, tmp_path, scene):
    with pytest.raises(InvalidParameterError, match="views is 4; legal for tiny, of kind panoptic: 1 to 3"):
        segment_views(segmenter, scene, views=4)
    large = np.zeros((1, MAX_PIXELS + 1, 3), np.uint8)
    with pytest.raises(InvalidParameterError, match=f"more than {MAX_PIXELS} pixels: 1"):
        segment_views(segmenter, large, views=2)


def test_a_codec_holds_the_pixels_of_all_views():
    assert [pixels_of(views, 1600) for views in (1, 2, 3)] == [1600, 4100, 7700]
