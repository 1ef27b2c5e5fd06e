"""PQ against hand-made cases, against a computation of its own from the definition, and against torchmetrics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import PanopticQuality

from training.counts import mean_of_defined
from training.data.coco_panoptic import find_coco_panoptic, read_coco_panoptic
from training.metrics import Evaluation, Plan

CELL, DOT, GROUND = 0, 1, 2
COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco200_panoptic"
PLAN = Plan(metrics=frozenset({"pq"}))


def scores_of(by_hand, *images, categories=None):
    evaluation = Evaluation(categories or by_hand.CATEGORIES, PLAN)
    for prediction, annotation in images:
        evaluation.add(prediction, annotation)
    return evaluation.scores()


def one_image(by_hand, prediction, classes, truth, true_classes, crowd=()):
    return scores_of(
        by_hand, (by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes, crowd))
    )


def plain_panoptic_quality(images, num_classes):
    """IoU sum, TP, FP and FN of each class, from the definition, a segment at a time.

    `images` are tuples: predicted map, its classes, true map, its classes, ids of crowds.
    """
    totals = {c: [0.0, 0, 0, 0] for c in range(num_classes)}
    for predicted, classes, truth, true_classes, crowd in images:
        labelled = truth != 0
        found, used = set(), set()
        for g, true_class in enumerate(true_classes, start=1):
            for p, predicted_class in enumerate(classes, start=1):
                if g in crowd or true_class != predicted_class:
                    continue
                a, b = truth == g, (predicted == p) & labelled
                iou = (a & b).sum() / (a | b).sum()
                if iou > 0.5:
                    totals[true_class][0] += iou
                    totals[true_class][1] += 1
                    found.add(g)
                    used.add(p)
        for g, true_class in enumerate(true_classes, start=1):
            totals[true_class][3] += g not in found and g not in crowd
        for p, predicted_class in enumerate(classes, start=1):
            region = predicted == p
            crowds = [g for g in crowd if true_classes[g - 1] == predicted_class]
            excused = region & (~labelled | np.isin(truth, crowds))
            totals[predicted_class][2] += p not in used and excused.sum() / region.sum() <= 0.5
    return totals


def assert_equal_to_definition(scores, totals, categories):
    of_class = {}
    for index, category in enumerate(categories):
        iou_sum, tp, fp, fn = totals[index]
        ours = scores.classes.get(category.name, {})
        if not tp + fp + fn:
            assert "pq" not in ours
            continue
        pq, sq, rq = iou_sum / (tp + fp / 2 + fn / 2), iou_sum / tp if tp else 0, tp / (tp + fp / 2 + fn / 2)
        assert (ours["pq"], ours["sq"], ours["rq"]) == pytest.approx((pq, sq, rq), abs=1e-12)
        of_class[index] = pq
    for suffix, kinds in (("", (True, False)), ("_things", (True,)), ("_stuff", (False,))):
        chosen = np.array([pq for index, pq in of_class.items() if categories[index].is_thing in kinds])
        expected = mean_of_defined(chosen)
        assert scores.summary.get("pq" + suffix, np.nan) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_perfect_prediction_scores_one_whatever_the_order(by_hand):
    truth, prediction = by_hand.row((2, 4), (1, 6)), by_hand.row((1, 4), (2, 6))
    scores = one_image(by_hand, prediction, [CELL, GROUND], truth, [GROUND, CELL])
    assert scores.summary.pop("num_images") == 1
    assert set(scores.summary.values()) == {1.0}
    assert {"pq", "sq", "rq", "pq_things", "pq_stuff"} <= scores.summary.keys()
    assert scores.main == ("pq", 1.0)


def test_pq_by_hand(by_hand):
    # Cell of 6 pixels, prediction of 8 over all of it: IoU 6/8. Ground of 10: 8 of it predicted, IoU 8/10.
    row = by_hand.row
    scores = one_image(by_hand, row((1, 8), (2, 8)), [CELL, GROUND], row((1, 6), (2, 10)), [CELL, GROUND])
    assert scores.classes == {
        "cell": {"pq": 0.75, "sq": 0.75, "rq": 1.0},
        "ground": {"pq": 0.8, "sq": 0.8, "rq": 1.0},
    }
    assert scores.summary["pq"] == pytest.approx(0.775)


def test_iou_of_exactly_one_half_is_no_match(by_hand):
    row = by_hand.row
    summary = one_image(by_hand, row((1, 4), (0, 4)), [CELL], row((1, 8)), [CELL]).summary
    assert (summary["pq"], summary["sq"], summary["rq"]) == (0, 0, 0)


def test_void_counts_in_no_union(by_hand):
    # Half of the prediction is void in the truth, exactly half: it may still match.
    assert one_image(by_hand, by_hand.row((1, 8)), [CELL], by_hand.row((1, 4), (0, 4)), [CELL]).summary["pq"] == 1


@pytest.mark.parametrize(("num_void", "is_false"), [(2, True), (3, False)])
def test_prediction_is_forgiven_when_more_than_half_of_it_is_void(by_hand, num_void, is_false):
    truth = by_hand.row((0, num_void), (1, 8 - num_void))
    scores = one_image(by_hand, by_hand.row((1, 4), (0, 4)), [CELL], truth, [GROUND])
    assert ("cell" in scores.classes) == is_false


@pytest.mark.parametrize(("crowd_class", "is_false"), [(CELL, False), (DOT, True)])
def test_prediction_in_a_crowd_is_forgiven_for_the_crowds_class_only(by_hand, crowd_class, is_false):
    row = by_hand.row
    scores = one_image(by_hand, row((1, 4), (0, 4)), [CELL], row((1, 8)), [crowd_class], crowd=(1,))
    assert ("rq" in scores.classes.get("cell", {})) == is_false
    assert "dot" not in scores.classes  # a crowd is never missed


def test_void_and_crowd_add_up_to_more_than_half(by_hand):
    truth = by_hand.row((1, 3), (0, 3), (2, 4))  # each alone is 3 of 10 pixels
    scores = one_image(by_hand, by_hand.row((1, 10)), [CELL], truth, [CELL, GROUND], crowd=(1,))
    assert "cell" not in scores.classes


def test_wrong_class_is_missed_and_false(by_hand):
    scores = one_image(by_hand, by_hand.row((1, 4)), [DOT], by_hand.row((1, 4)), [CELL])
    assert {name: of_class["rq"] for name, of_class in scores.classes.items()} == {"cell": 0, "dot": 0}


def test_an_empty_prediction_scores_zero_and_an_empty_annotation_is_no_error(by_hand):
    nothing, full = by_hand.row((0, 4)), by_hand.row((1, 4))
    empty = one_image(by_hand, nothing, [], full, [CELL])
    assert (empty.summary["pq"], empty.main) == (0, ("pq", 0.0))
    assert one_image(by_hand, full, [CELL], nothing, []).summary == {"num_images": 1}  # all void: nothing is counted
    assert one_image(by_hand, nothing, [], nothing, []).main == ("pq", 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pq_equals_its_definition(by_hand, seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(3):
        truth, true_classes, crowd = by_hand.blobs(rng)
        images.append((*by_hand.disturb(rng, truth, true_classes), truth, true_classes, crowd))
    scores = scores_of(by_hand, *(as_added(by_hand, image) for image in images))
    assert_equal_to_definition(scores, plain_panoptic_quality(images, 3), by_hand.CATEGORIES)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pq_equals_torchmetrics(by_hand, seed):
    """On maps without void and crowds, of which torchmetrics has another idea."""
    rng = np.random.default_rng(seed)
    reference = PanopticQuality(things={CELL, DOT}, stuffs={GROUND}, return_sq_and_rq=True, return_per_class=True)
    added = []
    for _ in range(3):
        truth, true_classes, _ = by_hand.blobs(rng)
        truth = np.where(truth == 0, true_classes.index(GROUND) + 1, truth) if GROUND in true_classes else truth
        if not truth.all():
            continue
        prediction = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        classes = [c if c == GROUND or rng.random() > 0.2 else 1 - c for c in true_classes]
        added.append((by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes)))
        pairs = []
        for ids, of_ids in ((prediction, classes), (truth, true_classes)):
            class_map = np.array([0, *of_ids])[ids]
            pairs.append(torch.from_numpy(np.stack([class_map, ids], axis=-1))[None])
        reference.update(*pairs)
    if not added:
        return
    scores = scores_of(by_hand, *added)
    for category, expected in zip(by_hand.CATEGORIES, reference.compute().squeeze(0).tolist(), strict=True):
        of_class = scores.classes.get(category.name, {})
        assert [of_class.get(name, 0) for name in ("pq", "sq", "rq")] == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(not COCO.is_dir(), reason="the 200 COCO images are kept beside the repository")
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_pq_equals_its_definition_on_coco(by_hand, every):
    rng = np.random.default_rng(5)
    images = []
    for split in ("train", "val"):
        index = read_coco_panoptic(*find_coco_panoptic(COCO, split))
        crowded = [record for record in index.records if any(segment.is_crowd for segment in record.source.segments)]
        for record in dict.fromkeys((*index.records[::every], *crowded)):
            truth = record.source.read(record.height, record.width)
            true_classes = truth.class_index.tolist()
            prediction = by_hand.disturb(rng, truth.layers[0], true_classes, shift=6, num_classes=133)
            crowd = tuple(np.flatnonzero(truth.is_crowd) + 1)
            images.append((*prediction, truth.layers[0], true_classes, crowd))
    scores = scores_of(by_hand, *(as_added(by_hand, image) for image in images), categories=index.categories)
    assert 0.1 < scores.summary["pq"] < 0.9  # neither all right nor all wrong
    assert_equal_to_definition(scores, plain_panoptic_quality(images, 133), index.categories)


def as_added(by_hand, image):
    prediction, classes, truth, true_classes, crowd = image
    return by_hand.segmentation(prediction, classes), by_hand.annotation(truth, true_classes, crowd)
