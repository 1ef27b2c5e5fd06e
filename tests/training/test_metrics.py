"""What an evaluation of many images reports, whatever it measures."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from model.config import Category
from training.metrics import Evaluation, Plan, Scores, confident
from training.score_tables import MAX_CLASSES, print_scores

CELL, DOT, GROUND = 0, 1, 2
PANOPTIC = Plan(metrics=frozenset({"pq", "ap", "miou"}))
INSTANCE = Plan(metrics=frozenset({"mask_ap", "ap"}), unlabelled_is_void=False, score_threshold=0.5)


def printed(scores: Scores, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_scores(scores, console)
    return console.file.getvalue()


@pytest.fixture
def two_groups(by_hand) -> Scores:
    evaluation = Evaluation(by_hand.CATEGORIES, PANOPTIC)
    good, bad = by_hand.row((1, 4), (2, 4)), by_hand.row((0, 4), (1, 4))
    truth = by_hand.annotation(good, [CELL, GROUND])
    evaluation.add(by_hand.segmentation(good, [CELL, GROUND]), truth, group="256x256 gray", name="a.png")
    evaluation.add(by_hand.segmentation(bad, [GROUND]), truth, group="colour", name="b.png")
    evaluation.add(by_hand.segmentation(good, [CELL, GROUND]), truth, group="256x256 gray", name="c.png")
    return evaluation.scores()


def test_groups_add_up_to_all(two_groups):
    assert list(two_groups.groups) == ["256x256 gray", "colour"]
    assert (two_groups.groups["256x256 gray"]["ap50_pooled"], two_groups.groups["colour"]["ap50_pooled"]) == (1, 0)
    assert two_groups.summary["num_images"] == 3
    assert two_groups.summary["ap50_pooled"] == pytest.approx(2 / 3)
    assert two_groups.main == ("pq", two_groups.summary["pq"])


def test_each_image_has_its_own_scores(two_groups):
    assert [image.name for image in two_groups.images] == ["a.png", "b.png", "c.png"]
    perfect = {"pq": 1, "sq": 1, "rq": 1, "ap50": 1, "ap": 1, "miou": 1, "pixel_accuracy": 1}
    assert two_groups.images[0].scores == perfect
    assert two_groups.images[1].scores["pq"] == pytest.approx(1 / 2)
    assert two_groups.images[1].scores["ap50"] == 0


def test_json_holds_everything(two_groups):
    document = json.loads(json.dumps(two_groups.to_json(), allow_nan=False))
    assert document["all"] == two_groups.summary
    assert document["main"] == {"pq": two_groups.summary["pq"]}
    assert document["groups"].keys() == {"256x256 gray", "colour"}
    assert document["classes"]["cell"]["ap50"] == pytest.approx(2 / 3)
    assert document["ap_iou_thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    assert document["images"][1] == {"file": "b.png", "group": "colour", **two_groups.images[1].scores}


def test_tables_fit_eighty_columns_and_name_groups_classes_and_thresholds(two_groups):
    text = printed(two_groups)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("256x256 gray", "colour", "all", "cell", "ground", "PQ", "mIoU", "0.90", "1.000", "0.667"):
        assert words in text
    assert "mask" not in text  # is not measured
    assert "…" not in text


def test_of_many_classes_the_lowest_are_shown(by_hand):
    categories = [Category(id=i, name=f"class{i}", is_thing=True, colour=(0, 0, 0)) for i in range(MAX_CLASSES + 20)]
    ids = np.arange(1, len(categories) + 1, dtype=np.int32)[None]
    evaluation = Evaluation(categories, PANOPTIC)
    classes = list(range(len(categories)))
    swapped = [*classes[:-2], classes[-1], classes[-2]]
    evaluation.add(by_hand.segmentation(ids, swapped), by_hand.annotation(ids, classes))
    text = printed(evaluation.scores())
    assert f"lowest {MAX_CLASSES} of {len(categories)} classes" in text
    assert "class59" in text
    assert text.index("class58") < text.index("class0 ")


def test_instances_are_measured_by_both_kinds_of_ap(by_hand):
    ids = np.zeros((20, 20), np.int32)
    ids[2:8, 2:8], ids[10:16, 10:18] = 1, 2
    masks = np.stack([ids == 1, ids == 2, ids == 0])
    prediction = by_hand.instances(masks, [CELL, CELL, DOT], [0.9, 0.8, 0.1])
    evaluation = Evaluation(by_hand.CATEGORIES, INSTANCE)
    evaluation.add(prediction, by_hand.annotation(ids, [CELL, CELL]), group="gray")
    scores = evaluation.scores()
    assert scores.main == ("mask_ap", pytest.approx(1))
    assert scores.summary["ap_pooled"] == 1  # the third is below the score threshold
    assert scores.groups["gray"]["mask_ap"] == pytest.approx(1)
    assert scores.classes["cell"] == {"ap50": 1, "mask_ap": pytest.approx(1)}
    assert scores.images[0].scores == {"ap50": 1, "ap": 1}
    assert "mask" in printed(scores)


def test_confident_instances_are_the_first(by_hand):
    masks = np.ones((3, 4, 4), bool)
    prediction = by_hand.instances(masks, [CELL] * 3, [0.9, 0.5, 0.4])
    kept = confident(prediction, 0.5)
    assert [segment.score for segment in kept.segments] == [0.9, 0.5]
    assert len(kept.counts) == 2


@pytest.mark.parametrize("plan", [PANOPTIC, INSTANCE])
def test_nothing_at_all_is_json_and_a_table_without_undefined_scores(by_hand, plan):
    scores = Evaluation(by_hand.CATEGORIES, plan).scores()
    assert scores.summary == {"num_images": 0}
    assert scores.main == ("pq" if plan is PANOPTIC else "mask_ap", 0.0)
    json.dumps(scores.to_json(), allow_nan=False)
    printed(scores)


@pytest.mark.parametrize("plan", [PANOPTIC, INSTANCE])
def test_an_image_without_annotation_and_prediction_is_counted(by_hand, plan):
    evaluation = Evaluation(by_hand.CATEGORIES, plan)
    nothing = by_hand.row((0, 4))
    evaluation.add(by_hand.segmentation(nothing, []), by_hand.annotation(nothing, []))
    assert evaluation.scores().summary == {"num_images": 1}


def test_ids_without_a_segment_and_other_sizes_are_refused(by_hand):
    evaluation = Evaluation(by_hand.CATEGORIES, PANOPTIC)
    row = by_hand.row
    with pytest.raises(ValueError, match="holds id 5, but there are 1 segments"):
        evaluation.add(by_hand.segmentation(row((5, 4)), [CELL]), by_hand.annotation(row((1, 4)), [CELL]))
    with pytest.raises(ValueError, match=r"is 4x1 pixels \(width x height\), the annotation 5x1"):
        evaluation.add(by_hand.segmentation(row((1, 4)), [CELL]), by_hand.annotation(row((1, 5)), [CELL]))
