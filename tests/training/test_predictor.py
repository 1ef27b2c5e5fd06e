import numpy as np
import pytest

from model.config import Category
from training.data.index import DataIndex
from training.predictor import Predictor, make_plan, match_categories, to_data_classes

CELL, DOT, GROUND = 0, 1, 2


def category(name, *, is_thing=True, id=1):
    return Category(id=id, name=name, is_thing=is_thing, colour=(0, 0, 0))


def model(kind, *categories):
    def predict(content):
        raise AssertionError

    return Predictor(name="tiny", kind=kind, categories=categories, score_threshold=0.4, predict=predict)


def data(kind, *categories):
    return DataIndex(format="some format", kind=kind, categories=categories, records=())


def matched(predictor, index):
    return match_categories(predictor, index, make_plan(predictor, index))


CELL_THING, SKY = category("cell"), category("sky", is_thing=False)


@pytest.mark.parametrize(
    ("of_model", "of_data", "metrics"),
    [
        ("panoptic", "panoptic", {"pq", "ap", "miou"}),
        ("panoptic", "instance", {"mask_ap", "ap"}),
        ("panoptic", "semantic", {"miou"}),
        ("instance", "panoptic", {"mask_ap", "ap"}),
        ("instance", "instance", {"mask_ap", "ap"}),
        ("semantic", "panoptic", {"miou"}),
        ("semantic", "semantic", {"miou"}),
    ],
)
def test_kinds_decide_what_is_measured(of_model, of_data, metrics):
    plan = make_plan(model(of_model, CELL_THING), data(of_data, CELL_THING))
    assert plan.metrics == metrics
    assert plan.unlabelled_is_void == (of_data != "instance")
    assert plan.score_threshold == (0.4 if of_model == "instance" else 0)


@pytest.mark.parametrize(("of_model", "of_data"), [("instance", "semantic"), ("semantic", "instance")])
def test_what_cannot_be_measured_is_told_with_what_can(of_model, of_data):
    words = f"tiny is of kind {of_model} and cannot be scored on some format data, .*; legal: data for kind panoptic"
    with pytest.raises(ValueError, match=words):
        make_plan(model(of_model, CELL_THING), data(of_data, CELL_THING))


def test_categories_meet_by_name_whatever_their_ids_and_order():
    predictor = model("panoptic", category("dot", id=3), category("cell", id=7), SKY)
    assert matched(predictor, data("panoptic", CELL_THING, category("dot", id=2), SKY)) == (1, 0, 2)


def test_a_model_may_know_more_than_the_data():
    predictor = model("panoptic", category("dot"), category("cell"), SKY)
    assert matched(predictor, data("panoptic", CELL_THING)) == (None, 0, None)
    assert matched(predictor, data("instance", CELL_THING)) == (None, 0, None)


def test_instances_need_the_things_alone():
    assert matched(model("instance", CELL_THING), data("panoptic", CELL_THING, SKY)) == (0,)
    assert matched(model("panoptic", CELL_THING, SKY), data("instance", CELL_THING)) == (0, None)


def test_a_category_that_the_model_lacks_is_told_with_both_lists():
    with pytest.raises(ValueError, match=r"categories that tiny does not know: dot.*data's: cell, dot; the model's"):
        matched(model("panoptic", CELL_THING), data("panoptic", CELL_THING, category("dot")))
    with pytest.raises(ValueError, match="things that tiny does not know: cell"):
        matched(model("panoptic", category("cell", is_thing=False)), data("instance", CELL_THING))


def test_long_lists_are_cut():
    many = [category(f"class{number}") for number in range(50)]
    with pytest.raises(ValueError, match="class19, and 30 more"):
        matched(model("panoptic", CELL_THING), data("panoptic", *many))


def test_a_thing_on_one_side_and_stuff_on_the_other_is_refused_for_pq_alone():
    predictor = model("panoptic", category("cell", is_thing=False))
    with pytest.raises(ValueError, match="'cell' is stuff to tiny and a thing in the data"):
        matched(predictor, data("panoptic", CELL_THING))
    assert matched(model("semantic", category("cell", is_thing=False)), data("panoptic", CELL_THING)) == (0,)


def test_segments_of_unknown_classes_are_left_out(by_hand):
    ids = by_hand.row((1, 2), (2, 3), (3, 4))
    renamed = to_data_classes(by_hand.segmentation(ids, [0, 1, 2]), (None, 5, 4))
    assert [segment.class_index for segment in renamed.segments] == [5, 4]
    np.testing.assert_array_equal(renamed.id_map, by_hand.row((0, 2), (1, 3), (2, 4)))
    masks = np.stack([ids == number for number in (1, 2, 3)])
    renamed = to_data_classes(by_hand.instances(masks, [0, 1, 2], [0.9, 0.8, 0.7]), (4, None, 0))
    assert [(segment.id, segment.class_index) for segment in renamed.segments] == [(1, 4), (2, 0)]
    assert len(renamed.counts) == 2
