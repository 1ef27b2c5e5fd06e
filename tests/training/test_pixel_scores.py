"""mIoU and pixel accuracy against hand-made cases and a count of single pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.metrics import Evaluation, Plan

CELL, DOT, GROUND = 0, 1, 2


def scores_of(by_hand, *images):
    evaluation = Evaluation(by_hand.CATEGORIES, Plan(metrics=frozenset({"miou"})))
    for prediction, annotation in images:
        evaluation.add(prediction, annotation)
    return evaluation.scores()


def one_image(by_hand, prediction, classes, truth, true_classes, crowd=()):
    return scores_of(
        by_hand, (by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes, crowd))
    )


def test_ignored_pixels_do_not_count_and_pixels_without_a_prediction_are_missed(by_hand):
    prediction, truth = by_hand.row((1, 2), (2, 2), (0, 4)), by_hand.row((1, 4), (2, 2), (0, 2))
    scores = one_image(by_hand, prediction, [CELL, GROUND], truth, [CELL, GROUND])
    # Cell: 2 of 4. Ground: predicted on 2 pixels of the cell, missed where it is.
    assert scores.classes == {"cell": {"iou": 2 / 4}, "ground": {"iou": 0}}
    assert scores.summary == {"num_images": 1, "miou": pytest.approx(1 / 4), "pixel_accuracy": pytest.approx(2 / 6)}
    assert scores.main == ("miou", scores.summary["miou"])


def test_a_class_that_is_predicted_and_nowhere_true_counts_zero(by_hand):
    scores = one_image(by_hand, by_hand.row((1, 3), (2, 1)), [GROUND, DOT], by_hand.row((1, 4)), [GROUND])
    assert scores.classes == {"dot": {"iou": 0}, "ground": {"iou": 3 / 4}}


def test_objects_and_crowds_of_a_class_are_one_region(by_hand):
    truth = by_hand.row((1, 2), (2, 2), (3, 2))
    scores = one_image(by_hand, by_hand.row((1, 6)), [CELL], truth, [CELL, CELL, CELL], crowd=(3,))
    assert scores.summary["miou"] == 1


def test_an_empty_prediction_scores_zero_and_an_empty_annotation_is_no_error(by_hand):
    nothing, full = by_hand.row((0, 4)), by_hand.row((1, 4))
    assert one_image(by_hand, nothing, [], full, [CELL]).summary["miou"] == 0
    assert one_image(by_hand, full, [CELL], nothing, []).summary == {"num_images": 1}
    assert one_image(by_hand, full, [CELL], nothing, []).main == ("miou", 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_miou_equals_a_count_of_single_pixels(by_hand, seed):
    rng = np.random.default_rng(seed)
    images, both, either, right, labelled = [], np.zeros(3), np.zeros(3), 0, 0
    for _ in range(3):
        truth, true_classes, crowd = by_hand.blobs(rng, size=14)
        prediction, classes = by_hand.disturb(rng, truth, true_classes)
        images.append((by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes, crowd)))
        for true_id, predicted_id in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if not true_id:
                continue
            true_class = true_classes[true_id - 1]
            predicted_class = classes[predicted_id - 1] if predicted_id else None
            labelled += 1
            right += true_class == predicted_class
            for index in range(3):
                both[index] += index == true_class == predicted_class
                either[index] += index in (true_class, predicted_class)
    summary = scores_of(by_hand, *images).summary
    if not labelled:
        assert "miou" not in summary
        return
    assert summary["miou"] == pytest.approx((both[either > 0] / either[either > 0]).mean())
    assert summary["pixel_accuracy"] == pytest.approx(right / labelled)
