import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torchmetrics.detection import PanopticQuality

from model.config import Category
from service.segments import Segment
from training.formats import SegmentInfo
from training.metrics import Evaluation, print_summary

CATEGORIES = (
    Category(id=7, name="cell", is_thing=True, colour=(1, 2, 3)),
    Category(id=8, name="dot", is_thing=True, colour=(4, 5, 6)),
    Category(id=9, name="ground", is_thing=False, colour=(7, 8, 9)),
)
CELL, DOT, GROUND = 0, 1, 2


def predicted(classes):
    """Segments of classes {id: class_index}."""
    return [Segment(id=i, class_index=c, score=1.0, area=1, bbox=(0, 0, 1, 1)) for i, c in classes.items()]


def true(classes, crowd=()):
    return [SegmentInfo(id=i, class_index=c, is_crowd=i in crowd) for i, c in classes.items()]


def row(*runs):
    """An id-map of one row from (id, length) pairs."""
    return np.repeat([i for i, _ in runs], [n for _, n in runs])[None].astype(np.int32)


def evaluate(prediction, prediction_classes, truth, truth_classes, crowd=()):
    evaluation = Evaluation(CATEGORIES)
    evaluation.add(prediction, predicted(prediction_classes), truth, true(truth_classes, crowd))
    return evaluation


def test_perfect_prediction_scores_one_whatever_the_ids():
    summary = evaluate(
        row((3, 4), (9, 6)), {3: CELL, 9: GROUND}, row((70000, 4), (2, 6)), {70000: CELL, 2: GROUND}
    ).summary()
    assert summary.pop("num_images") == 1
    assert set(summary.values()) == {1.0}
    assert {"pq", "pq_things", "pq_stuff", "ap50_pooled", "ap50_mean", "ap_pooled", "miou"} <= summary.keys()


def test_pq_by_hand():
    # Cell of 6 pixels, prediction of 8 over all of it: IoU 6/8. Ground of 10: 8 of it predicted, IoU 8/10.
    evaluation = evaluate(row((1, 8), (2, 8)), {1: CELL, 2: GROUND}, row((1, 6), (2, 10)), {1: CELL, 2: GROUND})
    classes = evaluation.class_summaries()
    assert classes == {
        "cell": {"pq": 0.75, "sq": 0.75, "rq": 1.0, "iou": 0.75},
        "ground": {"pq": 0.8, "sq": 0.8, "rq": 1.0, "iou": 0.8},
    }
    summary = evaluation.summary()
    assert summary["pq"] == pytest.approx(0.775)
    assert summary["ap50_pooled"] == 1
    assert summary["ap_pooled"] == pytest.approx(5 / 10)  # 0.50 to 0.70; at 0.75 the IoU is not above


def test_iou_of_exactly_one_half_is_no_match():
    summary = evaluate(row((1, 4), (0, 4)), {1: CELL}, row((1, 8)), {1: CELL}).summary()
    assert (summary["pq"], summary["sq"], summary["rq"], summary["ap50_pooled"]) == (0, 0, 0, 0)


def test_missed_and_extra_count_half_each_in_rq_and_whole_in_ap():
    summary = evaluate(
        row((1, 4), (2, 4), (0, 4)), {1: CELL, 2: CELL}, row((1, 4), (0, 4), (3, 4)), {1: CELL, 3: CELL}
    ).summary()
    # The second prediction lies wholly in void: neither false nor true.
    assert summary["rq"] == pytest.approx(1 / 1.5)
    assert summary["ap50_pooled"] == pytest.approx(1 / 2)


def test_void_counts_in_no_union():
    # Half of the prediction is void in the truth, exactly half: it may still match.
    summary = evaluate(row((1, 8)), {1: CELL}, row((1, 4), (0, 4)), {1: CELL}).summary()
    assert summary["pq"] == 1
    assert summary["miou"] == 1


def test_prediction_half_in_void_without_match_is_false_and_more_than_half_is_not():
    half = evaluate(row((1, 4), (0, 4)), {1: CELL}, row((0, 2), (5, 6)), {5: GROUND}).summary()
    more = evaluate(row((1, 4), (0, 4)), {1: CELL}, row((0, 3), (5, 5)), {5: GROUND}).summary()
    assert half["ap50_pooled"] == 0
    assert "ap50_pooled" not in more  # no thing, nor a false one
    assert more["ap50_mean"] == 1


@pytest.mark.parametrize(("crowd_class", "is_false"), [(CELL, False), (DOT, True)])
def test_prediction_in_a_crowd_is_forgiven_for_the_crowds_class_only(crowd_class, is_false):
    evaluation = evaluate(row((1, 4), (0, 4)), {1: CELL}, row((2, 8)), {2: crowd_class}, crowd=(2,))
    assert (evaluation.summary()["ap50_mean"] == 0) == is_false
    assert ("rq" in evaluation.class_summaries()["cell"]) == is_false
    assert "rq" not in evaluation.class_summaries().get("dot", {})  # a crowd is never missed


def test_wrong_class_is_missed_and_false():
    evaluation = evaluate(row((1, 4)), {1: DOT}, row((1, 4)), {1: CELL})
    assert evaluation.summary()["ap50_pooled"] == 0
    assert {name: scores["rq"] for name, scores in evaluation.class_summaries().items()} == {"cell": 0, "dot": 0}


def test_pooled_is_over_objects_and_mean_over_images():
    evaluation = Evaluation(CATEGORIES)
    three = row((1, 4), (2, 4), (3, 4))
    evaluation.add(three, predicted(dict.fromkeys((1, 2, 3), CELL)), three, true(dict.fromkeys((1, 2, 3), CELL)))
    evaluation.add(row((0, 12)), [], row((1, 4), (0, 8)), true({1: CELL}))
    evaluation.add(row((0, 12)), [], row((0, 12)), [])  # nothing to find, nothing found: 1
    summary = evaluation.summary()
    assert summary["ap50_pooled"] == pytest.approx(3 / 4)
    assert summary["ap50_mean"] == pytest.approx(2 / 3)


def test_miou_ignores_void_and_counts_unlabelled_prediction_as_wrong():
    summary = evaluate(
        row((1, 2), (2, 2), (0, 4)), {1: CELL, 2: GROUND}, row((1, 4), (2, 2), (0, 2)), {1: CELL, 2: GROUND}
    ).summary()
    assert summary["miou"] == pytest.approx((2 / 4 + 0) / 2)


def test_groups_add_up_to_all():
    evaluation = Evaluation(CATEGORIES)
    good, bad = row((1, 4), (2, 4)), row((0, 4), (2, 4))
    classes = {1: CELL, 2: GROUND}
    evaluation.add(good, predicted(classes), good, true(classes), group="gray")
    evaluation.add(bad, predicted(classes), good, true(classes), group="colour")
    evaluation.add(good, predicted(classes), good, true(classes), group="gray")
    groups = evaluation.group_summaries()
    assert list(groups) == ["colour", "gray"]
    assert (groups["gray"]["ap50_pooled"], groups["colour"]["ap50_pooled"]) == (1, 0)
    assert evaluation.summary()["num_images"] == 3
    assert evaluation.summary()["ap50_pooled"] == pytest.approx(2 / 3)


def test_unknown_ids_and_other_sizes_are_refused():
    evaluation = Evaluation(CATEGORIES)
    with pytest.raises(ValueError, match=r"predicted id-map holds ids without a segment: \[5\]"):
        evaluation.add(row((5, 4)), predicted({1: CELL}), row((1, 4)), true({1: CELL}))
    with pytest.raises(ValueError, match="true id-map holds"):
        evaluation.add(row((1, 4)), predicted({1: CELL}), row((6, 4)), true({1: CELL}))
    with pytest.raises(ValueError, match=r"\(1, 4\), the true one \(1, 5\)"):
        evaluation.add(row((1, 4)), predicted({1: CELL}), row((1, 5)), true({1: CELL}))


def test_summary_of_nothing_is_json_without_undefined_scores():
    summary = Evaluation(CATEGORIES).summary()
    assert summary == {"num_images": 0}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_printed_table_names_groups_and_classes():
    evaluation = Evaluation(CATEGORIES)
    ids = row((1, 4))
    evaluation.add(ids, predicted({1: CELL}), ids, true({1: CELL}), group="256x256 gray")
    console = Console(file=io.StringIO(), width=140)
    print_summary(evaluation, console)
    text = console.file.getvalue()
    assert "256x256 gray" in text
    assert "cell" in text
    assert "1.000" in text


def blobs(rng, size=24):
    """A random id-map of rectangles over ground, and the class of each id."""
    ids = np.ones((size, size), np.int32)
    classes = {1: GROUND}
    for number in range(2, 2 + int(rng.integers(1, 6))):
        y, x = rng.integers(0, size - 4, 2)
        height, width = rng.integers(3, 12, 2)
        ids[y : y + height, x : x + width] = number
        classes[number] = int(rng.integers(2))
    return ids, {number: classes[number] for number in np.unique(ids).tolist()}


def disturb(rng, ids, classes):
    """The same, moved a little; some segments of another class."""
    moved = np.roll(ids, rng.integers(-2, 3, 2), (0, 1))
    return moved, {i: c if c == GROUND or rng.random() > 0.2 else 1 - c for i, c in classes.items()}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_pq_equals_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    reference = PanopticQuality(things={CELL, DOT}, stuffs={GROUND}, return_sq_and_rq=True, return_per_class=True)
    evaluation = Evaluation(CATEGORIES)
    for _ in range(3):
        truth, truth_classes = blobs(rng)
        prediction, prediction_classes = disturb(rng, truth, truth_classes)
        evaluation.add(prediction, predicted(prediction_classes), truth, true(truth_classes))
        pairs = []
        for ids, classes in ((prediction, prediction_classes), (truth, truth_classes)):
            class_map = np.vectorize(classes.get)(ids)
            pairs.append(torch.from_numpy(np.stack([class_map, ids], axis=-1))[None])
        reference.update(*pairs)
    ours = evaluation.class_summaries()
    for category, expected in zip(CATEGORIES, reference.compute().squeeze(0).tolist(), strict=True):
        scores = ours.get(category.name, {})
        assert [scores.get(name, 0) for name in ("pq", "sq", "rq")] == pytest.approx(expected, abs=1e-6)
