import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.check import check, compare_splits
from training.data.coco_panoptic import find_coco_panoptic
from training.data.convert import convert
from training.data.open import open_data
from training.data.statistics import Tally
from training.data.suggestions import suggest

SHARED = Path(__file__).parents[3] / "shared" / "data"


def discs(height, width, *, count, radius, seed=0):
    """A label map of discs apart, 1..count, uint16."""
    image = np.zeros((height, width), np.uint16)
    step = 2 * radius + 4
    places = [(x, y) for y in range(step, height - step, step) for x in range(step, width - step, step)]
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    for number, place in enumerate(chosen.tolist(), start=1):
        cv2.circle(image, places[place], radius, number, -1)
    return image


@pytest.fixture
def data(tmp_path, files):
    """Eight images of cells as label maps, some for validation."""
    for number in range(8):
        files.save(tmp_path / "images" / f"{number}.png", files.noise(number, 96, 128))
        files.save(tmp_path / "label_maps" / f"{number}.png", discs(96, 128, count=5 + number, radius=4, seed=number))
    return tmp_path


def test_statistics_are_those_of_the_pixels(data):
    index = open_data(data, "train")
    report = check(index, show_progress=False)
    found = report.statistics
    maps = [record.source.read(96, 128) for record in index.records]
    counts = [len(annotation.class_index) - 1 for annotation in maps]
    areas = np.concatenate([np.bincount(annotation.layers.ravel())[1:-1] for annotation in maps])
    assert report.problems == report.warnings == ()
    assert found.num_images == len(index.records)
    assert found.common_sizes == ((96, 128, len(index.records)),)
    assert [known.num_segments for known in found.categories] == [sum(counts), len(counts)]
    assert [known.num_images for known in found.categories] == [len(counts)] * 2
    assert sum(known.pixel_share for known in found.categories) == pytest.approx(1)
    assert found.categories[0].pixel_share == pytest.approx(areas.sum() / (96 * 128 * len(counts)))
    assert (found.objects.least, found.objects.largest) == (min(counts), max(counts))
    assert (found.objects.median, found.object_area.median) == (np.median(counts), np.median(areas))
    assert found.object_area.most == pytest.approx(np.percentile(areas, 95))


def test_thickness_of_a_stripe_is_about_its_width(tmp_path, files):
    for name in "ab":
        files.save(tmp_path / "images" / f"{name}.png", files.noise(0, 200, 300))
        stripe = np.zeros((200, 300), np.uint8)
        stripe[:, 100:110] = 1
        files.save(tmp_path / "labels" / f"{name}.png", stripe)
    assert check(open_data(tmp_path, "train"), show_progress=False).statistics.thickness.least == pytest.approx(10)


def test_each_problem_names_its_file_and_the_others_are_still_counted(data):
    index = open_data(data, "train")
    broken, wrong_size, *others = index.records
    broken.image_path.write_bytes(broken.image_path.read_bytes()[:300])
    cv2.imwrite(str(wrong_size.source.path), np.ones((10, 10), np.uint8))
    report = check(index, show_progress=False)
    assert len(report.problems) == 2
    assert f"{broken.image_path}: " in report.problems[0]
    assert f"{wrong_size.source.path} is 10x10, its image 128x96" in report.problems[1]
    assert report.statistics.num_images == len(others)


def test_ids_that_differ_between_json_and_png_are_problems_in_both_directions(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("coco") / "set"
    convert(data, out)
    json_path, _, png_dir = find_coco_panoptic(out, "train")
    document = json.loads(json_path.read_text())
    document["annotations"][0]["segments_info"].append({"id": 4000, "category_id": 1, "area": 5})
    gone = document["annotations"][1]["segments_info"].pop(0)["id"]
    json_path.write_text(json.dumps(document))
    problems = check(open_data(out, "train"), show_progress=False).problems
    assert len(problems) == 2
    assert "has no pixel of 1 segments that are listed: ids [4000]" in problems[0]
    png_path = png_dir / document["annotations"][1]["file_name"]
    assert f"{png_path} holds ids that are not in segments_info: [{gone}]" in problems[1]


def test_empty_images_unused_categories_and_copies_are_warnings(tmp_path, files):
    for word, seeds in (("train", (1, 2, 0)), ("val", (3, 4, 0))):  # train's c is val's c
        for name, seed in zip("abc", seeds, strict=True):
            files.save(tmp_path / "images" / word / f"{word}{name}.png", files.noise(seed))
            files.save(tmp_path / "labels" / word / f"{word}{name}.png", files.labels(255 if name == "a" else 0))
    categories = [{"name": "ground", "value": 0}, {"name": "sky", "value": 1}]
    (tmp_path / "data.json").write_text(json.dumps({"categories": categories}))
    train, val = (check(open_data(tmp_path, split), show_progress=False) for split in ("train", "val"))
    assert train.problems == ()
    assert any("traina.png: nothing is annotated on it" in warning for warning in train.warnings)
    assert "categories without a segment in this split: sky" in train.warnings
    assert train.statistics.num_empty == 1
    assert train.statistics.void_share == pytest.approx(1 / 3)
    (warning,) = compare_splits({"train": train, "val": val}, "train", "val")
    assert "trainc.png (train) and " in warning
    assert "valc.png (val) are the same image" in warning


def tally_of(index, maps):
    tally = Tally(index=index)
    for record, annotation in maps:
        tally.add(record, annotation)
    return tally.result()


@pytest.mark.parametrize(
    ("sizes", "radius", "count", "expected"),
    [
        # Small discs in images of very different sizes: tiles, a fine stride.
        (((300, 300), (900, 1500)), 4, 120, {"geometry": "tile", "feature_stride": "2", "num_kernels": "150"}),
        # Large discs in images of one size: the whole image, coarse.
        (((480, 640), (480, 640)), 40, 6, {"geometry": "fit 480 x 640", "feature_stride": "8", "num_kernels": "50"}),
        (((400, 640), (640, 420)), 40, 6, {"geometry": "shortest_edge", "feature_stride": "8"}),
    ],
)
def test_suggestions_follow_the_objects(tmp_path, files, sizes, radius, count, expected):
    for number, (height, width) in enumerate(sizes * 2):
        files.save(tmp_path / "images" / f"{number}.png", np.zeros((height, width), np.uint8))
        labels = discs(height, width, count=count, radius=radius)
        files.save(tmp_path / "label_maps" / f"{number}.png", labels)
    records = [record for split in ("train", "val") for record in open_data(tmp_path, split).records]
    index = open_data(tmp_path, "train")
    statistics = tally_of(index, [(record, record.source.read(record.height, record.width)) for record in records])
    found = {suggestion.setting: suggestion for suggestion in suggest(statistics, index.kind)}
    for setting, value in expected.items():
        assert found[setting].value.startswith(value), setting
    assert all(suggestion.reason for suggestion in found.values())


def test_many_objects_need_as_many_kernels(data):
    report = check(open_data(data, "train"), show_progress=False)
    (kernels,) = [int(known.value) for known in report.suggestions if known.setting == "num_kernels"]
    assert kernels >= report.statistics.objects.largest
    assert kernels % 50 == 0
    assert not math.isnan(report.statistics.thickness.median)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets in ../shared/data")
def test_coco_has_no_problem():
    index = open_data(SHARED / "coco200_panoptic", "val")
    report = check(index, show_progress=False)
    assert report.problems == ()
    assert sum(known.num_segments for known in report.statistics.categories) + report.statistics.num_crowds == 1078
