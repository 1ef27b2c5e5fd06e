import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.coco_panoptic import find_coco_panoptic, read_coco_panoptic
from training.data.open import open_data

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets in ../shared/data")


@pytest.fixture
def data(tmp_path):
    """One image with two segments, in COCO's own folder names."""
    for name in ("images/train2017", "annotations/panoptic_train2017"):
        (tmp_path / name).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images/train2017/1.png"), np.zeros((4, 6), np.uint8))
    cv2.imwrite(str(tmp_path / "annotations/panoptic_train2017/1.png"), np.zeros((4, 6, 3), np.uint8))
    write(tmp_path, document())
    return tmp_path


def document():
    return {
        "categories": [
            {"id": 30, "name": "sky", "isthing": 0},
            {"id": 12, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
            {"id": 4, "name": "grass", "isthing": 0},
            {"id": 20, "name": "dog", "isthing": 1},
        ],
        "images": [{"id": 1, "file_name": "1.png", "height": 4, "width": 6}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "1.png",
                "segments_info": [{"id": 70000, "category_id": 20, "iscrowd": 1}, {"id": 2, "category_id": 4}],
            }
        ],
    }


def write(data, content):
    text = content if isinstance(content, str) else json.dumps(content)
    (data / "annotations" / "panoptic_train2017.json").write_text(text)


def read(data):
    return read_coco_panoptic(*find_coco_panoptic(data, "train"))


def test_classes_are_things_then_stuff_by_id(data):
    index = read(data)
    assert [category.name for category in index.categories] == ["cat", "dog", "grass", "sky"]
    assert [category.is_thing for category in index.categories] == [True, True, False, False]
    (record,) = index.records
    assert [(s.id, s.class_index, s.is_crowd) for s in record.source.segments] == [(70000, 1, True), (2, 2, False)]
    assert (record.height, record.width, record.group) == (4, 6, "")


def test_missing_colours_are_distinct_and_the_same_each_time(data):
    content = document()
    content["categories"] = [{"id": i, "name": str(i), "isthing": int(i < 80)} for i in range(133)]
    content["annotations"][0]["segments_info"] = []
    write(data, content)
    colours = [category.colour for category in read(data).categories]
    assert len(set(colours)) == 133
    assert colours == [category.colour for category in read(data).categories]


def edit(content, path, value):
    """Set (or, for None, delete) the place `path` in `content`."""
    *way, last = path
    for step in way:
        content = content[step]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("annotations",), None, "'annotations' is missing"),
        (("images",), {"a": 1}, "'images' is missing or not a list"),
        (("categories", 0, "id"), 12, "categories: ids that occur more than once: 12"),
        (("categories", 1, "id"), None, r"categories\[1\]: needs an integer 'id'"),
        (("categories", 1, "isthing"), None, r"category 12 \(cat\): set 'isthing'"),
        (("categories", 1, "color"), [1, 2, 300], r"category 12 \(cat\): 'color'"),
        (("categories", 1, "color"), 5, r"category 12 \(cat\): 'color'"),
        (("images", 0, "file_name"), "2.png", r"images\[0\] \(id 1\): .*2\.png is missing"),
        (("images", 0, "id"), [1], r"images\[0\] \(id \[1\]\): needs an 'id'"),
        (("images", 0, "height"), "4", r"images\[0\] \(id 1\): height and width are \['4', 6\]"),
        (("images", 0, "id"), 5, r"annotations\[0\] \(image id 1\): no image has this id"),
        (("annotations",), [], r"image 1\.png has no annotation"),
        (("annotations", 0, "file_name"), "no.png", r"annotations\[0\] \(image id 1\): .*no\.png is missing"),
        (("annotations", 0, "segments_info"), None, r"annotations\[0\] \(image id 1\): 'segments_info'"),
        (("annotations", 0, "segments_info", 0, "id"), 2, r"segments_info: ids that occur more than once: 2"),
        (("annotations", 0, "segments_info", 0, "id"), 0, r"segments_info\[0\]: id 0 is not an integer from 1"),
        (("annotations", 0, "segments_info", 0, "id"), 256**3, r"segments_info\[0\]: id 16777216"),
        (("annotations", 0, "segments_info", 0, "category_id"), 99, "segment 70000: category 99 is not in 'categor"),
        (("annotations", 0, "segments_info", 0, "category_id"), [1], r"segment 70000: category \[1\]"),
    ],
)
def test_problem_names_file_and_entry(data, path, value, message):
    content = document()
    edit(content, path, value)
    write(data, content)
    with pytest.raises(ValueError, match=message) as raised:
        read(data)
    assert str(data / "annotations" / "panoptic_train2017.json") in str(raised.value)


def test_several_problems_come_in_one_message_but_not_a_thousand(data):
    content = document()
    content["images"] += [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 6} for i in range(2, 1000)]
    write(data, content)
    with pytest.raises(ValueError, match="cannot be used") as raised:
        read(data)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert "and 1986 more" in lines[-1]  # 998 missing files and 998 images without annotation, 10 shown


@pytest.mark.parametrize(("text", "message"), [('{"images": [}', "line 1, column 13"), ("[]", "holds a list")])
def test_damaged_json_names_the_place(data, text, message):
    write(data, text)
    with pytest.raises(ValueError, match=rf"panoptic_train2017\.json.*{message}"):
        read(data)


def test_data_set_without_images_is_refused(data):
    write(data, document() | {"images": [], "annotations": []})
    with pytest.raises(ValueError, match="has no annotated image"):
        read(data)


def test_a_list_chooses_images(data):
    content = document()
    for kind in ("images", "annotations/panoptic"):
        folder = data / (kind + ("/train2017" if kind == "images" else "_train2017"))
        (folder / "2.png").write_bytes((folder / "1.png").read_bytes())
    content["images"].append(content["images"][0] | {"id": 2, "file_name": "2.png"})
    content["annotations"].append(content["annotations"][0] | {"image_id": 2, "file_name": "2.png"})
    write(data, content)
    folders = {"images": "images/train2017", "labels": "annotations/panoptic_train2017.json", "list": "mine.txt"}
    (data / "data.json").write_text(json.dumps({"train": folders, "val": folders}))
    (data / "mine.txt").write_text("2.png\n")
    assert [record.image_path.name for record in open_data(data, "train").records] == ["2.png"]
    (data / "mine.txt").write_text("2.png\n3.png\n")
    with pytest.raises(
        ValueError,
        match=r"annotations/panoptic_train2017\.json cannot be used:\n  3.png is listed, but no such image is there",
    ):
        open_data(data, "train")


def test_split_that_is_not_there_is_not_found(data):
    assert find_coco_panoptic(data, "val") is None


def test_images_may_lie_beside_the_images_folder(data):
    (data / "images" / "train2017").rename(data / "train2017")
    assert read(data).records[0].image_path == data / "train2017" / "1.png"


@needs_shared
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_is_read(split):
    index = read_coco_panoptic(*find_coco_panoptic(SHARED / "coco200_panoptic", split))
    assert len(index.records) == 100
    assert sum(category.is_thing for category in index.categories) == 80
    assert [index.categories[i].name for i in (0, 79, 80, 132)] == ["person", "toothbrush", "banner", "rug-merged"]
    assert sum(len(record.source.segments) for record in index.records) == {"train": 1111, "val": 1078}[split]


@needs_shared
def test_panopticapi_sample_is_read():
    folder = SHARED / "panopticapi_sample" / "sample_data"
    index = read_coco_panoptic(folder / "panoptic_examples.json", folder / "input_images", folder / "panoptic_examples")
    assert len(index.records) == 2
    assert index.categories[0].colour == (220, 20, 60)


def test_an_empty_id_map_is_named(data):
    path = data / "annotations/panoptic_train2017/1.png"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path} is not an 8-bit RGB PNG"):
        read(data).records[0].source.read(4, 6)
