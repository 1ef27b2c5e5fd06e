import json
import unicodedata

import numpy as np
import pytest

from training.data.open import open_data
from training.data.splits import choose


@pytest.fixture
def data(tmp_path, files):
    """Four images in folders of unusual names, labels of the values 0, 1 and 7."""
    for name in "abcd":
        files.save(tmp_path / "pictures" / f"{name}.png", files.noise())
        files.save(tmp_path / "classes" / f"{name}.png", files.labels(0, 1, 7))
    return tmp_path


def describe(data, **keys):
    whole = {} if "train" in keys else {"images": "pictures", "labels": "classes"}
    (data / "data.json").write_text(json.dumps(whole | keys))
    return data


def class_map(index):
    record = index.records[0]
    annotation = record.source.read(record.height, record.width)
    return np.concatenate([[-1], annotation.class_index])[annotation.layers[0]]


def test_names_values_ids_and_colours_are_taken(data, files):
    categories = [
        {"name": "sky", "value": [0, 7], "id": 40, "colour": [1, 2, 3]},
        {"name": "ground", "value": 1},
    ]
    index = open_data(describe(data, categories=categories), "train")
    assert [(known.id, known.name) for known in index.categories] == [(40, "sky"), (1, "ground")]
    assert index.categories[0].colour == (1, 2, 3)
    assert (class_map(index) == files.labels(0, 1, 0, dtype=np.int64)).all()


def test_names_alone_are_for_the_values_in_their_order(data, files):
    index = open_data(describe(data, categories=[{"name": "sky"}, {"name": "ground"}], ignore_index=7), "train")
    assert (class_map(index) == files.labels(0, 1, -1, dtype=np.int64)).all()
    reduced = describe(data, categories=[{"name": "sky"}], reduce_zero_label=True, ignore_index=7)
    index = open_data(reduced, "train")
    assert [known.id for known in index.categories] == [1]
    assert (class_map(index) == files.labels(-1, 0, -1, dtype=np.int64)).all()


def test_several_values_may_be_void_or_none(data, files):
    index = open_data(describe(data, ignore_index=[0, 7]), "train")
    assert (class_map(index) == files.labels(-1, 0, -1, dtype=np.int64)).all()
    for name in "abcd":
        files.save(data / "classes" / f"{name}.png", files.labels(0, 1, 255))
    index = open_data(describe(data, ignore_index=None), "val")
    assert [known.name for known in index.categories] == ["class 0", "class 1", "class 255"]


def test_colours_may_be_merged_and_void(data, files):
    for name in "abcd":
        files.save(data / "classes" / f"{name}.png", files.coloured((9, 9, 8), (0, 0, 1), (5, 5, 6), (0, 0, 0)))
    categories = [{"name": "car", "colour": [[9, 9, 8], [0, 0, 1]]}, {"name": "tree", "colour": [5, 5, 6]}]
    index = open_data(describe(data, categories=categories, ignore_colour=[0, 0, 0]), "train")
    assert (class_map(index) == files.labels(0, 0, 1, -1, dtype=np.int64)).all()


def test_splits_by_folders_or_lists(data):
    (data / "mine.txt").write_text("a\npictures/c.png\n")
    both = {"images": "pictures", "labels": "classes"}
    index = open_data(describe(data, train=both, val=both | {"list": "mine.txt"}), "val")
    assert [record.image_path.stem for record in index.records] == ["a", "c"]
    (data / "mine.txt").write_text("a\nx\n")
    with pytest.raises(ValueError, match="x is listed, but no such image is there"):
        open_data(data, "val")


def test_a_list_may_lie_beside_a_description_elsewhere(data, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.txt").write_text("b\n")
    both = {"images": "pictures", "labels": "classes", "list": "mine.txt"}
    (elsewhere / "set.json").write_text(json.dumps({"train": both, "val": both}))
    index = open_data(data, "train", elsewhere / "set.json")
    assert [record.image_path.stem for record in index.records] == ["b"]


def test_share_of_validation_can_be_chosen(data):
    describe(data, val_fraction=0.99)
    assert len(open_data(data, "val").records) == 3  # one is left to train on


def test_label_maps_can_be_asked_for_and_named(data):
    index = open_data(describe(data, format="label_maps", categories=[{"name": "cell"}]), "train")
    assert [(known.name, known.is_thing) for known in index.categories] == [("cell", True), ("background", False)]
    with pytest.raises(ValueError, match="one category of objects and a background"):
        open_data(describe(data, format="label_maps", categories=[{"name": "cell"}, {"name": "dot"}]), "train")


def test_description_elsewhere_is_taken_for_the_one_in_the_folder(data, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "mine.json"
    other.write_text(json.dumps({"images": "pictures", "labels": "classes", "categories": [{"name": "a", "value": 0}]}))
    (data / "data.json").write_text("{")
    assert [known.name for known in open_data(data, "train", other).categories] == ["a"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "voc"}, "format: .*'coco_panoptic', 'coco_instances', 'semantic' or 'label_maps'"),
        ({"classes": []}, "classes: Extra inputs"),
        ({"val_fraction": 2}, "val_fraction: .*less than 1"),
        ({"ignore_index": -1}, "ignore_index.0: .*greater than or equal to 0"),
        ({"categories": [{"id": 3}]}, r"categories\.0\.name: Field required"),
        ({"categories": [{"name": "a", "colour": [0, 0, 256]}]}, r"categories\.0\.colour\.0\.2: .*255"),
        ({"categories": [{"name": "a"}, {"name": "a"}]}, "categories with the same name: a"),
        ({"categories": [{"name": "a", "value": 1}, {"name": "b", "value": [0, 1]}]}, "the same value: 1"),
        ({"images": None}, "'images' and 'labels' belong together"),
        ({"images": "nowhere"}, "nowhere is not a folder"),
        ({"format": "coco_instances"}, "'labels' is 'classes'; legal for coco_instances: the JSON file"),
        ({"train": {"images": "pictures"}}, r"train\.labels: Field required"),
    ],
)
def test_wrong_entries_are_named(data, keys, message):
    with pytest.raises(ValueError, match=message):
        open_data(describe(data, **keys), "train")


def test_damaged_description_is_named(data):
    (data / "data.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.json cannot be used.*\n.*Invalid JSON"):
        open_data(data, "train")
    with pytest.raises(ValueError, match=r"gone\.json is missing"):
        open_data(data, "train", data / "gone.json")


def test_share_and_stability_of_the_split():
    names = [f"image {number}" for number in range(2000)]
    val = choose(names, "val")
    assert 0.12 < len(val) / 2000 < 0.18
    assert choose(names, "train") == set(names) - val
    assert choose(names[:1000], "val") == val & set(names[:1000])
    assert not choose(["a", "a", "b"], "train") & choose(["a", "a", "b"], "val")
    with pytest.raises(ValueError, match="1 images cannot be split"):
        choose(["a"], "val")


def test_a_description_written_on_windows_is_read(data):
    describe(data, ignore_index=7)
    text = (data / "data.json").read_text()
    (data / "data.json").write_bytes(text.encode("utf-8-sig"))
    assert [known.name for known in open_data(data, "train").categories] == ["class 0", "class 1"]
    (data / "data.json").write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match=r"data\.json is no text in UTF-8 .*save it as UTF-8"):
        open_data(data, "train")


def test_a_listed_name_that_several_images_have_is_told(tmp_path, files):
    for name in ("a/1", "b/1", "b/2"):
        files.save(tmp_path / "images" / f"{name}.png", files.noise())
        files.save(tmp_path / "labels" / f"{name}.png", files.labels(0, 1))
    listed = tmp_path / "val.txt"
    listed.write_text("any/images/b/1.png\n2\n")
    assert [record.image_path.name for record in open_data(tmp_path, "train").records] == ["1.png"]
    assert open_data(tmp_path, "train").records[0].image_path.parent.name == "a"
    listed.write_text("1\n")
    with pytest.raises(ValueError, match="1 is listed, and several images are called so: write a/1, b/1"):
        open_data(tmp_path, "val")
    listed.write_text("c/2\n")
    with pytest.raises(ValueError, match="c/2 is listed, but no such image is there"):
        open_data(tmp_path, "val")


def test_an_accent_may_be_one_character_or_two(tmp_path, files):
    for number in range(2):
        files.save(tmp_path / "images" / unicodedata.normalize("NFD", f"blüte{number}.png"), files.noise())
        files.save(tmp_path / "labels" / unicodedata.normalize("NFC", f"blüte{number}.png"), files.labels(0, 1))
    (tmp_path / "val.txt").write_text(unicodedata.normalize("NFC", "blüte1"), encoding="utf-8")
    assert len(open_data(tmp_path, "val").records) == 1


def test_a_palette_in_another_order_than_the_categories_swaps_no_classes(data, files):
    palette = [0, 0, 0, 128, 0, 0, *[0, 0, 1] * 5, 224, 224, 192]  # values 0, 1 and 7
    for name in "abcd":
        files.save(data / "classes" / f"{name}.png", files.labels(0, 1, 7), palette)
    categories = [{"name": "plane", "colour": [128, 0, 0]}, {"name": "ground", "colour": [0, 0, 0]}]
    with pytest.raises(ValueError, match=r"value 0 has the colour of 'ground' .*give each category its \"value\""):
        open_data(describe(data, format="semantic", categories=categories, ignore_index=7), "train")
    index = open_data(describe(data, format="semantic", categories=categories, ignore_colour=[224, 224, 192]), "train")
    assert (class_map(index) == files.labels(1, 0, -1, dtype=np.int64)).all()
    index = open_data(describe(data, format="semantic", categories=categories[::-1], ignore_index=7), "train")
    assert (class_map(index) == files.labels(0, 1, -1, dtype=np.int64)).all()


def test_labels_in_jpeg_are_told(data):
    for name in "abcd":
        path = data / "classes" / f"{name}.png"
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(ValueError, match=r"a\.png has no labels in .*JPEG is not taken, as it changes labels"):
        open_data(describe(data), "train")
