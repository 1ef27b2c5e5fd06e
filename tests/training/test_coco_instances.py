import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from training.data.coco_instances import find_coco_instances, read_coco_instances
from training.data.open import open_data

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "panopticapi_sample" / "sample_data"
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]  # x, y


def annotation(**changes):
    return {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "segmentation": SQUARE} | changes


@pytest.fixture
def data(tmp_path):
    """Two images of 8x10 in COCO's folders, and an annotation file with one square."""
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "train2017" / f"{name}.png"), np.zeros((8, 10), np.uint8))
    return tmp_path


def write(data, *annotations, categories=({"id": 7, "name": "cat"}, {"id": 2, "name": "dog"})):
    document = {
        "categories": list(categories),
        "images": [{"id": i, "file_name": f"{name}.png", "height": 8, "width": 10} for i, name in enumerate("ab", 1)],
        "annotations": list(annotations),
    }
    (data / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    return data


def read(data, *annotations, **changes):
    return read_coco_instances(*find_coco_instances(write(data, *annotations, **changes), "train"))


def first(index):
    record = index.records[0]
    return record.source.read(record.height, record.width)


def mask_of(segmentation):
    """By pycocotools alone."""
    rle = coco_mask.frPyObjects(segmentation, 8, 10)
    return coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle).astype(bool)


def test_polygons_and_both_run_lengths_give_the_same_mask(data):
    mask = mask_of(SQUARE)
    runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    lengths = np.diff(runs, prepend=0, append=80).tolist()
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for segmentation in (SQUARE, {"counts": lengths, "size": [8, 10]}, {"counts": compressed, "size": [8, 10]}):
        assert (first(read(data, annotation(segmentation=segmentation))).layers == mask[None]).all()


def test_classes_are_things_by_id_and_an_image_may_have_no_object(data):
    index = read(data, annotation())
    assert (index.format, index.kind) == ("COCO instances", "instance")
    assert [(known.id, known.name, known.is_thing) for known in index.categories] == [
        (2, "dog", True),
        (7, "cat", True),
    ]
    assert first(index).class_index.tolist() == [1]
    empty = index.records[1].source.read(8, 10)
    assert empty.layers.shape == (1, 8, 10)
    assert not empty.layers.any()
    assert empty.segments == ()


def test_crowds_are_marked(data):
    crowd = {"counts": [10, 20, 50], "size": [8, 10]}
    read_back = first(read(data, annotation(), annotation(id=2, iscrowd=1, segmentation=crowd)))
    assert read_back.is_crowd.tolist() == [False, True]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(1, 6)] * 2), min_size=1, max_size=8))
def test_overlapping_objects_keep_all_their_pixels(tmp_path_factory, boxes):
    data = tmp_path_factory.mktemp("data")
    (data / "train2017").mkdir()
    (data / "annotations").mkdir()
    for name in "ab":
        cv2.imwrite(str(data / "train2017" / f"{name}.png"), np.zeros((8, 10), np.uint8))
    polygons = [[[x, y, x + w, y, x + w, y + h, x, y + h]] for x, y, w, h in boxes]
    masks = [mask for mask in map(mask_of, polygons) if mask.any()]
    if not masks:
        return
    found = first(read(data, *(annotation(id=i, segmentation=polygon) for i, polygon in enumerate(polygons))))
    assert len(found.segments) == len(masks)
    for segment, mask in zip(found.segments, masks, strict=True):
        assert ((found.layers == segment.id).any(axis=0) == mask).all()
        assert (found.layers == segment.id).any(axis=(1, 2)).sum() == 1  # in one layer
    if not (np.sum(masks, axis=0) > 1).any():
        assert len(found.layers) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, r"annotations\[0\] \(image id 5\): no image has this id"),
        ({"category_id": 3}, "id 1: category 3 is not in 'categories'"),
        ({"segmentation": []}, r"'segmentation' is \[\]; legal: polygons"),
        ({"segmentation": None}, "'segmentation' is None"),
        ({"segmentation": [[1, 1, 5, 5]]}, "a polygon has 4 numbers; legal: two for each of three corners"),
        ({"segmentation": [[1, 1, 5, 5, 2, 2, 3]]}, "a polygon has 7 numbers"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "all corners of a polygon are the same point"),
        ({"segmentation": [[1, 1, "a", 1, 1, 1]]}, "not a list of finite numbers"),
        ({"segmentation": {"counts": [10, 20], "size": [8, 10]}}, "cover 30 pixels, not 8 x 10"),
        ({"segmentation": {"counts": [80], "size": [10, 8]}}, r"size \[10, 8\], the image has \[8, 10\]"),
        ({"segmentation": {"counts": "zzz", "size": [8, 10]}}, "id 1: .*; draw the object anew"),
        ({"segmentation": {"counts": 5, "size": [8, 10]}}, "'counts' is a int"),
    ],
)
def test_problem_names_file_and_annotation(data, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        read(data, annotation(**change))
    assert str(data / "annotations" / "instances_train2017.json") in str(raised.value)


def test_objects_without_pixels_and_stuff_are_left_out_and_reported(data):
    outside = [[20, 20, 25, 20, 25, 25]]
    stuff = {"id": 9, "name": "sky", "isthing": 0}
    index = read(
        data,
        annotation(),
        annotation(id=2, segmentation=outside),
        annotation(id=3, category_id=9),
        categories=({"id": 7, "name": "cat"}, stuff),
    )
    assert len(first(index).segments) == 1
    assert [known.name for known in index.categories] == ["cat"]
    assert any("1 objects cover no pixel" in note and "id 2" in note for note in index.notes)
    assert any("stuff are left out" in note and "sky" in note for note in index.notes)


def test_file_without_objects_is_refused(data):
    with pytest.raises(ValueError, match="has no object"):
        read(data)


def test_annotation_tools_put_the_file_among_the_images(data):
    write(data, annotation())
    (data / "train2017").rename(data / "train")
    (data / "annotations" / "instances_train2017.json").rename(data / "train" / "_annotations.coco.json")
    assert len(open_data(data, "train").records) == len(open_data(data, "val").records) == 1  # no val: divided


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the panopticapi sample in ../shared/data")
def test_the_samples_detection_form_has_the_objects_of_its_panoptic_form(tmp_path):
    description = tmp_path / "data.json"
    names = {"detection": "panoptic_coco_detection_format.json", "panoptic": "panoptic_examples.json"}
    found = {}
    for form, name in names.items():
        description.write_text(json.dumps({"images": "input_images", "labels": name}))
        splits = [open_data(SAMPLE, split, description) for split in ("train", "val")]
        for index in splits:
            for record in index.records:
                read_back = record.source.read(record.height, record.width)
                found[form, record.image_path.name] = sorted(
                    (index.categories[s.class_index].name, s.is_crowd, int((read_back.layers == s.id).sum()))
                    for s in read_back.segments
                )
    assert len(found) == 4
    for (form, name), objects in found.items():
        assert objects == found["panoptic", name], form


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (({"id": 0, "name": "cat"}, {"id": 7, "name": "cat"}), "categories 0, 7 have the same name 'cat': rename"),
        (({"id": 7, "name": " "},), "category 7 has no name"),
        (({"id": -1, "name": "cat"}, {"id": 7, "name": "dog"}), r"category -1 \(cat\): the id is negative"),
    ],
)
def test_a_category_that_no_model_could_have_is_told(data, categories, message):
    with pytest.raises(ValueError, match=message):
        read(data, annotation(), categories=categories)


def test_images_of_one_name_in_several_folders_are_told_apart(data):
    names = [f"video{folder}/{number}.png" for folder in "ab" for number in range(4)]
    for name in names:
        (data / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(data / "all" / name), np.zeros((8, 10), np.uint8))
    document = {
        "categories": [{"id": 7, "name": "cat"}],
        "images": [{"id": i, "file_name": name, "height": 8, "width": 10} for i, name in enumerate(names)],
        "annotations": [annotation(id=i, image_id=i) for i in range(len(names))],
    }
    (data / "all.json").write_text(json.dumps(document))
    folders = {"images": "all", "labels": "all.json"}

    def split(name):
        return {record.image_path.relative_to(data / "all").as_posix() for record in open_data(data, name).records}

    (data / "data.json").write_text(json.dumps(folders))
    assert split("train") | split("val") == set(names)
    assert not split("train") & split("val")
    both = {name: folders | {"list": f"{name}.txt"} for name in ("train", "val")}
    (data / "data.json").write_text(json.dumps(both))
    (data / "train.txt").write_text("\n".join(names[:4]))
    (data / "val.txt").write_text("\n".join(names[4:]))
    assert split("train") == set(names[:4])
    assert split("val") == set(names[4:])
    (data / "val.txt").write_text("1.png")
    with pytest.raises(ValueError, match="several images are called so: write videoa/1, videob/1"):
        split("val")
