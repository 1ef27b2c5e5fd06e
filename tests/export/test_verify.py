import numpy as np
import pytest

from export.verify import Comparison, compare_answers
from service.segments import Segmentation, from_id_map


def answer(id_map: list[list[int]], classes: list[int], scores: list[float]) -> Segmentation:
    return from_id_map(np.array(id_map, np.int32), classes, scores)


def test_equal_answers_agree_everywhere():
    one = answer([[1, 1, 2], [1, 0, 2]], [0, 1], [0.9, 0.8])
    comparison = compare_answers(one, one)
    assert (comparison.differing_pixels, comparison.matched_segments, comparison.differing_scores) == (0, 2, 0)
    assert comparison.accepted


def test_swapped_ids_of_equal_scores_are_no_difference():
    one = answer([[1, 1, 2]], [0, 0], [0.9, 0.89999])
    other = answer([[1, 1, 2]], [0, 0], [0.89999, 0.9])
    assert one.id_map.tolist() != other.id_map.tolist()
    assert compare_answers(one, other).differing_pixels == 0


def test_moved_border_counts_its_pixels():
    one = answer([[1, 1, 1, 2, 2, 2]], [0, 0], [0.9, 0.8])
    other = answer([[1, 1, 1, 1, 2, 2]], [0, 0], [0.9, 0.8])
    comparison = compare_answers(one, other)
    assert comparison.pixel_difference == pytest.approx(1 / 6)
    assert not comparison.accepted


def test_other_class_is_a_difference_and_no_match():
    one, other = answer([[1, 1, 0]], [0], [0.9]), answer([[1, 1, 0]], [1], [0.9])
    comparison = compare_answers(one, other)
    assert (comparison.differing_pixels, comparison.matched_segments) == (2, 0)


def test_split_segment_differs_in_its_smaller_part():
    one = answer([[1, 1, 1, 1, 1]], [0], [0.9])
    other = answer([[1, 1, 1, 2, 2]], [0, 0], [0.9, 0.8])
    assert compare_answers(one, other).differing_pixels == 2


def test_score_beyond_the_tolerance_is_counted():
    one, other = answer([[1, 2]], [0, 0], [0.9, 0.8]), answer([[1, 2]], [0, 0], [0.9, 0.7])
    comparison = compare_answers(one, other)
    assert comparison.differing_scores == 1
    assert comparison.largest_score_difference == pytest.approx(0.1)
    assert not comparison.accepted


def test_nothing_compared_is_not_accepted():
    assert not Comparison().accepted


def test_sums_keep_the_largest_score_difference():
    total = Comparison(images=1, largest_score_difference=0.2) + Comparison(images=2, largest_score_difference=0.1)
    assert (total.images, total.largest_score_difference) == (3, 0.2)
