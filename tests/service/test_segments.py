import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from service.segments import from_id_map, join_by_class, select

ID_MAPS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 4))
SCORES = st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=4, max_size=4)


@given(ID_MAPS, SCORES)
def test_area_and_bbox_are_those_of_the_mask(id_map, scores):
    result = from_id_map(id_map, [0, 1, 0, 1], scores)
    for segment in result.segments:
        rows, columns = np.nonzero(result.id_map == segment.id)
        assert segment.area == len(rows)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert segment.bbox == (columns.min(), rows.min(), width, height)


@given(ID_MAPS, SCORES)
def test_ids_count_from_one_by_descending_score_and_keep_every_mask(id_map, scores):
    result = from_id_map(id_map, [0, 1, 0, 1], scores)
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    assert [s.score for s in result.segments] == sorted((s.score for s in result.segments), reverse=True)
    present = {i for i in range(1, 5) if (id_map == i).any()}
    assert len(result.segments) == len(present)
    for old in present:
        (new,) = np.unique(result.id_map[id_map == old])
        assert result.segments[new - 1].score == scores[old - 1]
        assert result.segments[new - 1].class_index == (old - 1) % 2
        assert ((result.id_map == new) == (id_map == old)).all()
    assert ((result.id_map == 0) == (id_map == 0)).all()


def test_equal_scores_keep_their_order():
    result = from_id_map(np.array([[3, 1, 2]], np.int32), [5, 6, 7], [0.5, 0.5, 0.5])
    assert [segment.class_index for segment in result.segments] == [5, 6, 7]


def test_segments_below_the_least_area_are_void():
    id_map = np.array([[1, 2, 2, 3, 3, 3]], np.int32)
    result = from_id_map(id_map, [0, 0, 1], [0.9, 0.8, 0.7], min_area=np.array([2, 2, 4]))
    assert result.id_map.tolist() == [[0, 1, 1, 0, 0, 0]]
    assert [(s.class_index, s.area) for s in result.segments] == [(0, 2)]


def test_selection_renumbers_and_makes_the_rest_void():
    result = from_id_map(np.array([[1, 2, 3, 0]], np.int32), [0, 1, 0], [0.9, 0.8, 0.7])
    only = select(result, [0])
    assert only.id_map.tolist() == [[1, 0, 2, 0]]
    assert [(s.id, s.class_index, s.score) for s in only.segments] == [(1, 0, 0.9), (2, 0, 0.7)]


def test_joining_by_class_gives_one_segment_a_class_with_its_best_score():
    result = from_id_map(np.array([[1, 2, 3, 0]], np.int32), [0, 1, 0], [0.6, 0.8, 0.7])
    joined = join_by_class(result)
    assert [(s.class_index, s.score, s.area) for s in joined.segments] == [(1, 0.8, 1), (0, 0.7, 2)]
    assert joined.id_map.tolist() == [[2, 1, 2, 0]]


def test_an_empty_map_has_no_segments():
    result = from_id_map(np.zeros((4, 5), np.int32), [], [])
    assert result.segments == ()
    assert join_by_class(select(result, [1])).segments == ()
