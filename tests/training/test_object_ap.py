"""AP of microscopy against hand-made cases and against a computation of its own from the definition."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.metrics import Evaluation, Plan
from training.object_ap import AP_THRESHOLDS, match_one_to_one

CELL, DOT, GROUND = 0, 1, 2


def scores_of(by_hand, *images, unlabelled_is_void=True, score_threshold=0.0):
    plan = Plan(metrics=frozenset({"pq", "ap"}), unlabelled_is_void=unlabelled_is_void, score_threshold=score_threshold)
    evaluation = Evaluation(by_hand.CATEGORIES, plan)
    for prediction, annotation in images:
        evaluation.add(prediction, annotation)
    return evaluation.scores()


def one_image(by_hand, prediction, classes, truth, true_classes, crowd=(), **options):
    image = by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes, crowd)
    return scores_of(by_hand, image, **options).summary


def test_each_threshold_is_reported_and_their_mean(by_hand):
    summary = one_image(by_hand, by_hand.row((1, 8)), [CELL], by_hand.row((1, 6), (2, 2)), [CELL, GROUND])
    assert AP_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    # IoU 6/8: at 0.75 it is not above.
    pooled = [summary[f"ap{percent}_pooled"] for percent in range(50, 95, 5)]
    assert pooled == [summary[f"ap{percent}_mean"] for percent in range(50, 95, 5)] == [1] * 5 + [0] * 4
    assert summary["ap_pooled"] == summary["ap_mean"] == pytest.approx(5 / 9)


def test_missed_and_extra_count_whole_and_stuff_not_at_all(by_hand):
    prediction = by_hand.row((1, 4), (3, 4), (0, 4), (2, 4))
    truth = by_hand.row((1, 4), (0, 1), (4, 3), (2, 4), (3, 4))
    summary = one_image(by_hand, prediction, [CELL, GROUND, CELL], truth, [CELL, CELL, GROUND, GROUND])
    assert summary["ap50_pooled"] == pytest.approx(1 / 3)


def test_pooled_is_over_objects_and_mean_over_images(by_hand):
    row = by_hand.row
    three, one, none = row((1, 4), (2, 4), (3, 4)), row((1, 4), (0, 8)), row((0, 12))
    summary = scores_of(
        by_hand,
        (by_hand.segmentation(three, [CELL] * 3), by_hand.annotation(three, [CELL] * 3)),
        (by_hand.segmentation(none, []), by_hand.annotation(one, [CELL])),
        (by_hand.segmentation(none, []), by_hand.annotation(none, [])),  # nothing to find, nothing found: 1
    ).summary
    assert summary["ap50_pooled"] == pytest.approx(3 / 4)
    assert summary["ap50_mean"] == pytest.approx(2 / 3)


def test_what_is_not_annotated_is_void_or_known_to_be_empty(by_hand):
    prediction, truth = by_hand.row((1, 4), (2, 4)), by_hand.row((1, 4), (0, 4))
    assert one_image(by_hand, prediction, [CELL] * 2, truth, [CELL])["ap50_pooled"] == 1
    known = one_image(by_hand, prediction, [CELL] * 2, truth, [CELL], unlabelled_is_void=False)
    assert known["ap50_pooled"] == pytest.approx(1 / 2)
    wide = one_image(by_hand, by_hand.row((1, 8)), [CELL], truth, [CELL], unlabelled_is_void=False)
    assert wide["ap50_pooled"] == 0  # IoU of exactly one half


def test_classes_have_their_own(by_hand):
    ids = by_hand.row((1, 4), (2, 4))
    scores = scores_of(by_hand, (by_hand.segmentation(ids, [CELL, CELL]), by_hand.annotation(ids, [CELL, DOT])))
    assert scores.classes["cell"]["ap50"] == pytest.approx(1 / 2)
    assert scores.classes["dot"]["ap50"] == 0


def test_of_masks_on_the_same_object_one_is_right(by_hand):
    truth = np.zeros((10, 10), np.int32)
    truth[2:8, 2:8] = 1
    masks = np.stack([truth == 1, truth == 1, truth == 1])
    annotation = by_hand.annotation(truth, [CELL])
    prediction = by_hand.instances(masks, [CELL] * 3, [0.9, 0.8, 0.2])
    assert scores_of(by_hand, (prediction, annotation)).summary["ap50_pooled"] == pytest.approx(1 / 3)
    # Below the score threshold an instance is not answered.
    summary = scores_of(by_hand, (prediction, annotation), score_threshold=0.5).summary
    assert summary["ap50_pooled"] == pytest.approx(1 / 2)


def test_objects_that_overlap_are_all_found(by_hand):
    layers = np.zeros((2, 10, 10), np.int32)
    layers[0, 1:7, 1:7] = 1
    layers[1, 3:9, 3:9] = 2
    prediction = by_hand.instances(np.stack([layers[1] == 2, layers[0] == 1]), [CELL, CELL], [0.9, 0.8])
    summary = scores_of(by_hand, (prediction, by_hand.annotation(layers, [CELL, CELL]))).summary
    assert summary["ap90_pooled"] == 1


def test_an_empty_prediction_scores_zero_and_an_empty_set_nothing(by_hand):
    nothing, full = by_hand.row((0, 4)), by_hand.row((1, 4))
    summary = one_image(by_hand, nothing, [], full, [CELL])
    assert (summary["ap50_pooled"], summary["ap50_mean"], summary["ap_mean"]) == (0, 0, 0)
    assert not [name for name in one_image(by_hand, nothing, [], nothing, []) if name.startswith("ap")]


def most_pairs(can):
    """The most pairs that exclude each other, by trying all."""
    rows, columns = can.shape
    if rows > columns:
        return most_pairs(can.T)
    return max(sum(can[i, j] for i, j in enumerate(order)) for order in permutations(range(columns), rows))


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_as_many_as_possible_are_matched(num_true, num_predicted, seed):
    iou = np.random.default_rng(seed).random((num_true, num_predicted))
    for threshold in (0.3, 0.5, 0.9):
        true_matched, matched = match_one_to_one(iou, threshold)
        assert true_matched.sum() == matched.sum() == most_pairs(iou > threshold)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ap_equals_its_definition(by_hand, seed):
    rng = np.random.default_rng(seed)
    images, outcomes, of_images = [], np.zeros((len(AP_THRESHOLDS), 3), int), []
    for _ in range(3):
        truth, true_classes, crowd = by_hand.blobs(rng)
        prediction, classes = by_hand.disturb(rng, truth, true_classes)
        images.append((by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes, crowd)))
        found = np.array([plain_outcomes(prediction, classes, truth, true_classes, crowd, t) for t in AP_THRESHOLDS])
        outcomes += found
        of_images.append([tp / total if (total := tp + fp + fn) else 1 for tp, fp, fn in found.tolist()])
    summary = scores_of(by_hand, *images).summary
    if not outcomes.any():
        assert "ap50_pooled" not in summary
        return
    for place, threshold in enumerate(AP_THRESHOLDS):
        name, total = f"ap{round(100 * threshold)}", outcomes[place].sum()
        assert summary.get(name + "_pooled") == (pytest.approx(outcomes[place, 0] / total) if total else None)
        assert summary[name + "_mean"] == pytest.approx(np.mean([values[place] for values in of_images]))


def plain_outcomes(prediction, classes, truth, true_classes, crowd, threshold):
    """True positives, false positives and false negatives of the things of one image, a segment at a time."""
    labelled, found, used = truth != 0, set(), set()
    for g, true_class in enumerate(true_classes, start=1):
        for p, predicted_class in enumerate(classes, start=1):
            a, b = truth == g, (prediction == p) & labelled
            may_match = true_class == predicted_class != GROUND and g not in crowd
            if may_match and (a & b).sum() / (a | b).sum() > threshold:
                found.add(g)
                used.add(p)
    false = 0
    for p, predicted_class in enumerate(classes, start=1):
        region = prediction == p
        excused = [g for g in crowd if true_classes[g - 1] == predicted_class]
        share = (region & (~labelled | np.isin(truth, excused))).sum() / region.sum()
        false += predicted_class != GROUND and p not in used and share <= 0.5
    missed = sum(
        1 for g, true_class in enumerate(true_classes, start=1) if true_class != GROUND and g not in {*found, *crowd}
    )
    return len(found), false, missed
