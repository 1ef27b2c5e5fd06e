import json
from pathlib import Path

import pytest

from model.ade20k import ade20k
from model.coco import coco_instance, coco_panoptic
from model.config import KNetConfig

DATA = Path(__file__).parents[3] / "shared" / "data"
ALL = [coco_panoptic, coco_instance, ade20k]


def stored_json(*parts: str):
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here: data sets are kept beside the repository")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("table", "things", "stuff"), [(coco_panoptic, 80, 53), (coco_instance, 80, 0), (ade20k, 100, 50)]
)
def test_counts(table, things, stuff):
    assert [sum(category.is_thing is kind for category in table()) for kind in (True, False)] == [things, stuff]


@pytest.mark.parametrize("table", ALL)
def test_ids_and_names_are_unique_and_clean(table):
    ids = [category.id for category in table()]
    names = [category.name for category in table()]
    assert len(set(ids)) == len(set(names)) == len(ids)
    assert min(ids) == 1  # 0 is void
    assert all(name and name == " ".join(name.split()) for name in names)


@pytest.mark.parametrize("table", ALL)
def test_colours_are_three_bytes_and_not_that_of_void(table):
    for category in table():
        assert len(category.colour) == 3
        assert all(type(value) is int and 0 <= value <= 255 for value in category.colour)
        assert any(category.colour)


def test_colours_differ_but_for_one_pair():
    assert len({category.colour for category in coco_panoptic()}) == 133
    assert len({category.colour for category in ade20k()}) == 149
    colours = {category.name: category.colour for category in ade20k()}
    assert colours["road"] == colours["skyscraper"]  # so in the official palette


def test_coco_lists_things_before_stuff_each_by_id():
    keys = [(not category.is_thing, category.id) for category in coco_panoptic()]
    assert keys == sorted(keys)


def test_coco_instance_has_the_class_indices_of_coco_panoptic():
    assert coco_instance() == coco_panoptic()[:80]


@pytest.mark.parametrize(
    ("class_index", "category_id", "name", "colour"),
    [
        (0, 1, "person", (220, 20, 60)),
        (11, 13, "stop sign", (220, 220, 0)),  # the first gap: there is no 12
        (79, 90, "toothbrush", (191, 162, 208)),
        (80, 92, "banner", (255, 255, 128)),
        (119, 187, "sky-other-merged", (70, 130, 180)),
        (132, 200, "rug-merged", (250, 141, 255)),
    ],
)
def test_coco_entries(class_index, category_id, name, colour):
    category = coco_panoptic()[class_index]
    assert (category.id, category.name, category.colour) == (category_id, name, colour)
    assert category.is_thing is (class_index < 80)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_agrees_with_the_annotations(split):
    stored = stored_json("coco200_panoptic", "annotations", f"panoptic_{split}.json")["categories"]
    theirs = {(entry["id"], entry["name"], bool(entry["isthing"])) for entry in stored}
    assert theirs == {(category.id, category.name, category.is_thing) for category in coco_panoptic()}
    # mmdetection numbers the classes in the order of the file
    assert [entry["id"] for entry in stored] == [category.id for category in coco_panoptic()]


def test_coco_agrees_with_panopticapi():
    stored = stored_json("panopticapi_sample", "panoptic_coco_categories.json")
    theirs = {entry["id"]: (entry["name"], bool(entry["isthing"]), tuple(entry["color"])) for entry in stored}
    assert theirs == {category.id: (category.name, category.is_thing, category.colour) for category in coco_panoptic()}


def test_coco_panoptic_makes_a_config():
    config = KNetConfig(categories=coco_panoptic())
    assert (config.num_things, config.num_stuff) == (80, 53)


def test_ade20k_ids_are_the_labels_in_order():
    assert [category.id for category in ade20k()] == list(range(1, 151))


@pytest.mark.parametrize(
    ("category_id", "name", "is_thing", "colour"),
    [
        (1, "wall", False, (120, 120, 120)),
        (2, "building", False, (180, 120, 120)),
        (3, "sky", False, (6, 230, 230)),
        (5, "tree", False, (4, 200, 3)),
        (8, "bed", True, (204, 5, 255)),  # "bed " in mmsegmentation
        (13, "person", True, (150, 5, 61)),
        (21, "car", True, (0, 102, 200)),
        (29, "rug", False, (255, 9, 92)),
        (33, "fence", True, (255, 184, 6)),
        (45, "chest of drawers", True, (6, 51, 255)),
        (90, "television receiver", True, (0, 255, 194)),
        (118, "cradle", False, (153, 0, 255)),
        (128, "bicycle", True, (255, 245, 0)),
        (142, "crt screen", False, (122, 0, 255)),
        (150, "flag", True, (92, 0, 255)),
    ],
)
def test_ade20k_entries(category_id, name, is_thing, colour):
    category = ade20k()[category_id - 1]
    assert (category.id, category.name, category.is_thing, category.colour) == (category_id, name, is_thing, colour)
