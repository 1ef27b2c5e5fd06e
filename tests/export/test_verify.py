import numpy as np
import pytest

from export.verify import Comparison, compare_answers
from service import rle
from service.instances import Instances
from service.segments import Segment, Segmentation, from_id_map


def answer(id_map: list[list[int]], classes: list[int], scores: list[float]) -> Segmentation:
    return from_id_map(np.array(id_map, np.int32), classes, scores)


def masks(*found: tuple[int, float, np.ndarray]) -> Instances:
    """An answer of masks that may overlap: class, score and mask (H, W) of each."""
    segments = [
        Segment(id=i, class_index=index, score=score, area=int(mask.sum()), bbox=(0, 0, 1, 1))
        for i, (index, score, mask) in enumerate(found, start=1)
    ]
    counts = [rle.encode(mask.astype(np.int32), [1])[0] for _, _, mask in found]
    return Instances(image_size=(100, 100), segments=tuple(segments), counts=tuple(counts))


def box(top: int, left: int, height: int = 20, width: int = 30) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[top : top + height, left : left + width] = True
    return mask


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


def test_equal_masks_agree_in_any_order():
    one = masks((0, 0.9, box(0, 0)), (1, 0.8, box(0, 0)), (0, 0.7, box(5, 5)))
    other = masks((0, 0.7, box(5, 5)), (0, 0.9, box(0, 0)), (1, 0.8, box(0, 0)))
    comparison = compare_answers(one, other)
    assert (comparison.pixels, comparison.differing_pixels) == (10_000, 0)
    assert (comparison.segments, comparison.matched_segments, comparison.differing_scores) == (3, 3, 0)
    assert comparison.accepted


def test_a_border_pixel_counts_in_each_mask_and_is_no_reason_to_refuse():
    changed = box(0, 0)
    changed[19, 29] = False
    one = masks((0, 0.9, box(0, 0)), (1, 0.8, box(0, 0)))
    comparison = compare_answers(one, masks((0, 0.9, changed), (1, 0.8, changed)))
    assert (comparison.differing_pixels, comparison.matched_segments) == (2, 2)
    assert comparison.accepted


@pytest.mark.parametrize(
    "other",
    [
        masks((0, 0.9, box(0, 0))),
        masks((0, 0.9, box(0, 0)), (0, 0.8, box(60, 60)), (0, 0.7, box(10, 10))),
        masks((0, 0.9, box(0, 0)), (1, 0.8, box(60, 60))),
        masks((0, 0.9, box(0, 0)), (0, 0.8, box(61, 60))),
        masks((0, 0.9, box(0, 0)), (0, 0.8, box(20, 20))),
        masks(),
    ],
    ids=["missing", "more", "class", "shifted", "elsewhere", "nothing"],
)
def test_masks_that_differ_are_refused_both_ways(other):
    one = masks((0, 0.9, box(0, 0)), (0, 0.8, box(60, 60)))
    assert not compare_answers(one, other).accepted
    assert not compare_answers(other, one).accepted


def test_a_mask_without_a_match_counts_all_its_pixels():
    one, other = masks((0, 0.9, box(0, 0)), (0, 0.8, box(60, 60))), masks((0, 0.9, box(0, 0)))
    comparison = compare_answers(one, other)
    assert (comparison.differing_pixels, comparison.segments, comparison.matched_segments) == (600, 2, 1)


def test_pixels_are_those_of_all_masks_where_these_are_more():
    many = masks(*((0, 0.9, np.ones((100, 100), bool)) for _ in range(3)))
    assert compare_answers(many, many).pixels == 30_000


def test_twins_are_told_apart_by_their_scores():
    nearly = box(0, 0)
    nearly[0, 0] = False
    one = masks((0, 0.9, box(0, 0)), (0, 0.3, nearly))
    comparison = compare_answers(one, masks((0, 0.9, nearly), (0, 0.3, box(0, 0))))
    assert (comparison.differing_scores, comparison.differing_pixels) == (0, 2)


def test_scores_of_masks_beyond_the_tolerance_are_counted():
    comparison = compare_answers(masks((0, 0.9, box(0, 0))), masks((0, 0.7, box(0, 0))))
    assert comparison.differing_scores == 1
    assert not comparison.accepted


def test_answers_of_two_kinds_are_not_compared():
    with pytest.raises(ValueError, match="cannot compare Segmentation with Instances"):
        compare_answers(answer([[1]], [0], [0.9]), masks((0, 0.9, box(0, 0))))
