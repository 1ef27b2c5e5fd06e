"""Each format, read back by somebody else's reader, against what is known of the images."""

import io
import json

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from rich.console import Console

from batch.job import Job, run
from service import artifact
from service.segmenter import Segmenter
from service.session import OnnxSession
from service.views import segment_views

# Of each image: thing 3 (nucleus, 3), thing 7 (nucleus, 3) and stuff 12 (background, 9).
CATEGORY_OF_RED = {3: 3, 7: 3, 12: 9}


@pytest.fixture(scope="module")
def images(tmp_path_factory, make_scene, encode):
    folder = tmp_path_factory.mktemp("few")
    scenes = {f"{number}.png": make_scene(number) for number in range(3)}
    for name, scene in scenes.items():
        (folder / name).write_bytes(encode(scene))
    return folder, scenes


@pytest.fixture
def segment(images, batch_settings, tmp_path):
    def call(format, model="panoptic", **wishes):
        job = Job(source=str(images[0]), out=tmp_path / "out", model=model, format=format, **wishes)
        report = run(job, batch_settings, Console(file=io.StringIO()))
        assert (report["images"], report["failed"]) == (3, 0)
        return tmp_path / "out", images[1]

    return call


def test_coco_panoptic(segment):
    out, scenes = segment("coco-panoptic")
    content = json.loads((out / "panoptic.json").read_text())
    assert {one["id"]: one["isthing"] for one in content["categories"]} == {7: 1, 3: 1, 9: 0}
    assert [one["file_name"] for one in content["images"]] == list(scenes)
    by_image = {one["image_id"]: one for one in content["annotations"]}
    for image in content["images"]:
        annotation, red = by_image[image["id"]], scenes[image["file_name"]][..., 0]
        assert (image["height"], image["width"]) == red.shape
        # As panopticapi's rgb2id does it.
        picture = np.asarray(Image.open(out / "panoptic" / annotation["file_name"]), np.int64)
        ids = picture[..., 0] + 256 * picture[..., 1] + 65536 * picture[..., 2]
        assert set(np.unique(ids)) == {one["id"] for one in annotation["segments_info"]}
        for one in annotation["segments_info"]:
            (value,) = np.unique(red[ids == one["id"]])
            assert one["category_id"] == CATEGORY_OF_RED[value]
            rows, columns = np.nonzero(red == value)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (one["area"], one["bbox"], one["iscrowd"]) == ((red == value).sum(), box, 0)


def test_coco_instances(segment):
    out, scenes = segment("coco-instances")
    coco = COCO(out / "instances.json")
    assert {one["id"] for one in coco.loadCats(coco.getCatIds())} == {7, 3}
    for number, scene in coco.imgs.items():
        annotations = coco.loadAnns(coco.getAnnIds([number]))
        masks = np.stack([coco.annToMask(one) for one in annotations])
        red = scenes[scene["file_name"]][..., 0]
        assert masks.shape == (2, *red.shape)
        assert {tuple(np.unique(red[one > 0])) for one in masks} == {(3,), (7,)}
        for one in annotations:
            assert one["area"] == mask.area(one["segmentation"])
            assert one["bbox"] == mask.toBbox(one["segmentation"]).tolist()


def test_coco_instances_of_masks_that_overlap(segment):
    out, _ = segment("coco-instances", model="instance")
    coco = COCO(out / "instances.json")
    first = coco.loadAnns(coco.getAnnIds([1]))
    assert len(first) == 4  # masks of bits 0, 0, 1 and 2 of red
    assert {one["area"] for one in first} == {int(mask.area(one["segmentation"])) for one in first}


def test_semantic(segment):
    out, scenes = segment("semantic", model="panoptic", categories=("nucleus",))
    for name, scene in scenes.items():
        picture = Image.open(out / "semantic" / name)
        assert picture.mode == "L"
        expected = np.where(scene[..., 0] == 12, 255, 3)
        np.testing.assert_array_equal(np.asarray(picture), expected)
    categories = json.loads((out / "categories.json").read_text())
    assert [one["id"] for one in categories] == [7, 3, 9]


def test_parquet(segment):
    out, scenes = segment("parquet", score_threshold=0.7)
    rows = pyarrow.parquet.read_table(out / "segments.parquet").to_pylist()
    assert [row["file_name"] for row in rows] == list(scenes)
    for row in rows:
        red = scenes[row["file_name"]][..., 0]
        assert [one["category"] for one in row["segments"]] == ["nucleus", "background"]  # thing 3 has 0.55
        for one, value in zip(row["segments"], (7, 12), strict=True):
            size = [row["height"], row["width"]]
            decoded = mask.decode({"size": size, "counts": one["counts"]})
            np.testing.assert_array_equal(decoded > 0, red == value)


def test_several_views_are_taken_and_combined(batch_settings, make_scene, encode, tmp_path):
    scene = make_scene(0)
    scene[20, 5:35, 0] = 5  # so thin that larger views do not show it
    (tmp_path / "a.png").write_bytes(encode(scene))
    folder = batch_settings.repository / "panoptic" / "1"
    segmenter = Segmenter(artifact.load(folder), OnnxSession(folder / "model.onnx", threads=1))
    maps = []
    for views in (1, 3):
        job = Job(
            source=str(tmp_path / "a.png"),
            out=tmp_path / str(views),
            model="panoptic",
            format="coco-panoptic",
            views=views,
        )
        assert run(job, batch_settings, Console(file=io.StringIO()))["views"] == views
        picture = np.asarray(Image.open(job.out / "panoptic" / "a.png"), np.int64)
        maps.append(picture @ [1, 256, 65536])
        np.testing.assert_array_equal(maps[-1], segment_views(segmenter, scene, views=views).id_map)
    assert not np.array_equal(*maps)


def test_overlay(segment):
    out, scenes = segment("overlay")
    for name, scene in scenes.items():
        picture = np.asarray(Image.open(out / "overlay" / name))
        assert picture.shape == scene.shape
        assert (picture != scene).any(axis=-1).mean() > 0.5


def test_a_model_that_cannot_do_it_is_told_before_anything_is_written(images, batch_settings, tmp_path):
    for wishes, words in (
        ({"model": "instance", "format": "semantic"}, "task semantic is not one of instance: instance"),
        ({"model": "panoptic", "format": "semantic", "views": 4}, "views is 4; legal for panoptic, .*: 1 to 3"),
        ({"model": "instance", "format": "parquet", "views": 2}, "views is 2; legal for instance, .*: 1$"),
    ):
        job = Job(source=str(images[0]), out=tmp_path / "out", **wishes)
        with pytest.raises(Exception, match=words):
            run(job, batch_settings, Console(file=io.StringIO()))
        assert not (tmp_path / "out").exists()
