import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.overlay import panoptic_png
from training.data.check import check
from training.data.coco_panoptic import read_id_map
from training.data.convert import convert
from training.data.open import open_data


@pytest.fixture
def data(tmp_path, files):
    """Eight images with two cells each as label maps, the first of which has more than 8 bits."""
    for number in range(8):
        labels = np.zeros((40, 60), np.uint16)
        labels[5:15, 10:30] = 1
        labels[30:34, 50:51] = 900 if number == 0 else 2
        files.save(tmp_path / "source" / "images" / f"{number}.png", files.noise(number, 40, 60))
        files.save(tmp_path / "source" / "label_maps" / f"{number}.png", labels)
    return tmp_path / "source"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_pixel_segment_and_image_file_is_kept(data, tmp_path):
    convert(data, tmp_path / "out")
    for split in ("train", "val"):
        before, after = open_data(data, split), open_data(tmp_path / "out", split)
        assert after.format == "COCO panoptic"
        assert after.categories == before.categories
        assert check(after, show_progress=False).problems == ()
        for old, new in zip(before.records, after.records, strict=True):
            assert old.image_path.read_bytes() == new.image_path.read_bytes()
            one, other = (record.source.read(40, 60) for record in (old, new))
            assert (one.layers == other.layers).all()
            assert (one.class_index == other.class_index).all()


def test_area_and_box_are_those_of_the_pixels(data, tmp_path):
    convert(data, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "annotations" / "panoptic_val.json").read_text())
    first, second, background = document["annotations"][0]["segments_info"]
    assert (first["area"], first["bbox"], first["iscrowd"]) == (200, [10, 5, 20, 10], 0)
    assert (second["area"], second["bbox"]) == (4, [50, 30, 1, 4])
    assert (background["area"], background["bbox"], background["category_id"]) == (40 * 60 - 204, [0, 0, 60, 40], 2)


def test_conversion_is_repeatable(data, tmp_path):
    for name in ("one", "two"):
        convert(data, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_failed_conversion_leaves_no_result_and_does_not_hinder_the_next(data, tmp_path):
    label = data / "label_maps" / "2.png"
    good = label.read_bytes()
    label.write_bytes(good[:60])
    with pytest.raises(ValueError, match=r"2\.png"):
        convert(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    label.write_bytes(good)
    convert(data, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    with pytest.raises(ValueError, match="already exists"):
        convert(data, tmp_path / "out")


def test_images_whose_id_maps_would_have_one_name_are_told(tmp_path, files):
    for name, ending in (("train/one/a", "png"), ("train/two/a", "bmp"), ("val/b", "png")):
        files.save(tmp_path / "source" / "images" / f"{name}.{ending}", files.noise())
        files.save(tmp_path / "source" / "labels" / f"{name}.png", files.labels(3, 255, 0))
    with pytest.raises(ValueError, match=r"two/a\.bmp: another image has the same name or stem"):
        convert(tmp_path / "source", tmp_path / "out")


def test_semantic_labels_can_be_converted_too(tmp_path, files):
    for name in "ab":
        files.save(tmp_path / "source" / "images" / f"{name}.png", files.noise())
        files.save(tmp_path / "source" / "labels" / f"{name}.png", files.labels(3, 255, 0))
    convert(tmp_path / "source", tmp_path / "out")
    index = open_data(tmp_path / "out", "val")
    assert [(known.id, known.is_thing) for known in index.categories] == [(0, False), (3, False)]
    annotation = index.records[0].source.read(8, 10)
    classes = np.concatenate([[-1], annotation.class_index])[annotation.layers[0]]
    assert (classes == files.labels(1, -1, 0, dtype=np.int64)).all()


def test_id_map_png_holds_24_bits(tmp_path):
    ids = np.array([[1, 300, 70000, 256**3 - 1]], np.int32)
    (tmp_path / "ids.png").write_bytes(panoptic_png(ids))
    bgr = cv2.imread(str(tmp_path / "ids.png"), cv2.IMREAD_UNCHANGED)[0].tolist()
    assert [pixel[::-1] for pixel in bgr] == [[1, 0, 0], [44, 1, 0], [112, 17, 1], [255, 255, 255]]
    assert (read_id_map(Path(tmp_path / "ids.png")) == ids).all()
