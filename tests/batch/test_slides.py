"""Slides: read, segmented and written in parts, with the answer that the whole image in memory gets."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from batch.durable import NotWrittenError
from batch.items import Item
from batch.job import Job, find_model, make_wish, run
from batch.sinks import SINKS
from batch.slide_file import open_slide
from batch.steps import SlideOptions, Steps
from service import rle
from service.answers import Wish, view
from service.artifact import Geometry
from service.image import decode
from service.replicas import Replicas
from service.segmenter import Segmenter
from service.session import OnnxSession
from service.settings import Settings

ROOT = Path(__file__).parents[2]
TILES = Geometry(mode="tile", sizes=(32, 64), overlap=24)


def random_slide(seed: int, size: tuple[int, int], stride: int = 1) -> np.ndarray:
    """Things as discs on stuff; many more than a tile holds, and long ones that cross many tiles."""
    rng = np.random.default_rng(seed)
    height, width = size
    red = np.full(size, 12, np.uint8)
    for _ in range(height * width // 400):
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(red, centre, int(rng.integers(3, 12)), int(rng.integers(0, 12)), -1)
    cv2.line(red, (width // 8, 0), (width // 2, height), 5, 6)
    cv2.rectangle(red, (10, height // 2), (width - 10, height // 2 + 6), 7, -1)
    image = np.dstack([red, rng.integers(0, 255, size, np.uint8), np.full(size, 40, np.uint8)])
    return np.ascontiguousarray(image)


@pytest.fixture(scope="module")
def slide_repository(tiny, tmp_path_factory) -> Path:
    """Models that take tiles of the image as it is."""
    folder = tmp_path_factory.mktemp("models")
    tiny.write_artifact(folder, name="panoptic", geometry=TILES)
    tiny.write_artifact(folder, name="coarse", geometry=TILES, stride=2)
    tiny.write_artifact(folder, name="statistics", geometry=TILES, statistics=True)
    tiny.write_artifact(folder, name="semantic", kind="semantic", geometry=TILES)
    tiny.write_artifact(folder, name="confident", kind="semantic", geometry=TILES, confidence=True)
    tiny.write_artifact(folder, name="slow", geometry=TILES, work=3)
    tiny.write_artifact(folder, name="fit", geometry=Geometry(mode="fit", size=(64, 64)))
    return folder


@pytest.fixture
def segment_slide(slide_repository):
    """Runs a job over slides and gives its report."""

    def call(source: Path, out: Path, **asked) -> dict:
        settings = Settings(repository=slide_repository, engine_threads=1)
        job = Job(
            **{"source": str(source), "out": out, "model": "panoptic", "format": "parquet", "slide_pixels": 0} | asked
        )
        return run(job, settings, Console(file=io.StringIO()))

    return call


def as_masks(labels: np.ndarray, rows: list[dict]) -> np.ndarray:
    """The label map again, from the masks in the table and, of stuff, from the map itself."""
    drawn = np.zeros_like(labels)
    for row in rows:
        x, y, width, height = row["bbox"]
        window = drawn[y : y + height, x : x + width]
        if row["is_thing"]:
            window[rle.decode(row["counts"], (height, width))] = row["id"]
        else:
            assert row["counts"] is None
            window[labels[y : y + height, x : x + width] == row["id"]] = row["id"]
    return drawn


@pytest.mark.parametrize(
    ("model", "format", "categories", "least"),
    [
        ("panoptic", "coco-panoptic", (), 50),
        ("panoptic", "coco-instances", ("nucleus",), 20),
        ("panoptic", "semantic", (), 3),
        ("coarse", "parquet", (), 50),
        ("statistics", "parquet", (), 50),
        ("semantic", "semantic", ("background", "cell"), 2),
        ("confident", "parquet", (), 3),
    ],
)
def test_a_slide_has_the_answer_of_the_image_in_memory(
    model, format, categories, least, segment_slide, slide_repository, tmp_path
):
    image = random_slide(len(model), (331, 270))
    if "semantic" in model or model == "confident":
        image[..., 0] %= 3
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.b.tif", image, tile=(64, 48), compression="zlib")
    asked = {"model": model, "format": format, "categories": categories}
    if model == "statistics":  # its scores are the mean of the slide
        asked["score_threshold"] = 0.2
    report = segment_slide(tmp_path / "in", tmp_path / "out", **asked)
    assert (report["slides"], report["failed"]) == (1, 0)

    folder = slide_repository / model / "1"
    stored = find_model(slide_repository, model, None)
    segmenter = Segmenter(stored.metadata, OnnxSession(folder / "model.onnx", threads=1))
    wish: Wish = make_wish(Job(source="", out=tmp_path, **asked), stored.metadata)
    whole = segmenter.segment(image, score_threshold=asked.get("score_threshold"))
    expected = view(whole, wish, stored.metadata)
    assert len(expected.segments) >= least

    labels = tifffile.imread(tmp_path / "out" / "slides" / "a.b.tif")
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, expected.id_map)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "slides" / "a.b.parquet").to_pylist()
    told = {row["id"]: (row["category_id"], row["area"], tuple(row["bbox"])) for row in rows}
    wanted = {one.id: (stored.metadata.categories[one.class_index].id, one.area, one.bbox) for one in expected.segments}
    assert told == wanted
    has_scores = wish.task != "semantic" or stored.metadata.confidence
    scores = {one.id: pytest.approx(one.score, abs=1e-6) if has_scores else None for one in expected.segments}
    assert {row["id"]: row["score"] for row in rows} == scores
    np.testing.assert_array_equal(as_masks(labels, rows), labels)

    (line,) = (json.loads(line) for line in (tmp_path / "out" / "slides.jsonl").open())
    assert (line["name"], line["width"], line["height"], line["objects"]) == ("a.b.tif", 270, 331, len(rows))
    warned = [json.loads(line)["warnings"] for line in (tmp_path / "out" / "warnings.jsonl").open()]
    assert warned == ([list(whole.warnings)] if whole.warnings else [])


def jpeg_tiles(image: np.ndarray, side: int):
    for top in range(0, image.shape[0], side):
        for left in range(0, image.shape[1], side):
            tile = np.zeros((side, side, 3), np.uint8)
            part = image[top : top + side, left : left + side]
            tile[: part.shape[0], : part.shape[1]] = part
            file = io.BytesIO()
            Image.fromarray(tile).save(file, "JPEG", quality=80, subsampling=2)
            yield file.getvalue()


def write_jpeg_tiles(path: Path, image: np.ndarray) -> None:
    """As scanners of slides do; tifffile writes tiles that are encoded already, and is told later what they are."""
    shape, tile = image.shape, (64, 64)
    subsampling = [(530, 3, 2, (2, 2), True)]
    tifffile.imwrite(
        path, jpeg_tiles(image, 64), shape=shape, dtype=np.uint8, tile=tile, compression="zlib", extratags=subsampling
    )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(7)
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(6)


def by_pillow(**options):
    def write(path, image):
        Image.fromarray(image).save(path, "TIFF", **options)

    return write


def by_tifffile(**options):
    def write(path, image):
        tifffile.imwrite(path, image, **options)

    return write


def palette(path, image):
    Image.fromarray(image).quantize(40).save(path, "TIFF", compression="tiff_lzw")


WAYS = {
    "tiles": by_tifffile(tile=(64, 80)),
    "deflate": by_tifffile(tile=(64, 80), compression="zlib", predictor=False),
    "big": by_tifffile(tile=(128, 16), bigtiff=True, compression="zlib"),
    "motorola": by_tifffile(tile=(64, 80), byteorder=">", compression="zlib"),
    "big motorola": by_tifffile(tile=(64, 80), byteorder=">", bigtiff=True),
    "strips": by_tifffile(rowsperstrip=7),
    "one strip": by_tifffile(),
    "lzw": by_pillow(compression="tiff_lzw", strip_size=4000),
    "packbits": by_pillow(compression="packbits", strip_size=4000),
    "jpeg strips": by_pillow(compression="jpeg", quality=90),
    "jpeg tiles": write_jpeg_tiles,
    "palette": palette,
}
GRAY = ("tiles", "big", "lzw", "strips")


@pytest.mark.parametrize("way", [*WAYS, *(f"gray {name}" for name in GRAY), "alpha tiles"])
def test_rows_are_those_of_the_decoded_image(way, tmp_path):
    image = random_slide(1, (201, 150))
    if way.startswith("gray "):
        image = image[..., 1]
    if way.startswith("alpha "):
        image = np.dstack([image, np.linspace(0, 255, 201 * 150).reshape(201, 150).astype(np.uint8)])
        tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 80), extrasamples=["unassalpha"])
    else:
        WAYS[way.removeprefix("gray ")](tmp_path / "a.tif", image)
    # Pillow does not open large files of this byte order, but small ones.
    whole = image if way == "big motorola" else decode((tmp_path / "a.tif").read_bytes())
    assert whole.shape == (201, 150, 3)
    with open_slide(Item(id=1, name="a.tif", url=str(tmp_path / "a.tif")), max_pixels=0, max_side=1) as slide:
        assert slide.size == (201, 150)
        for top, bottom in ((0, 201), (0, 1), (60, 70), (64, 128), (130, 201), (200, 201)):
            np.testing.assert_array_equal(slide.read_rows(top, bottom), whole[top:bottom])


def test_images_within_the_limits_and_others_are_no_slides(tmp_path):
    image = random_slide(1, (20, 30))
    tifffile.imwrite(tmp_path / "a.tif", image)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:12])
    (tmp_path / "c.tif").write_bytes((tmp_path / "a.png").read_bytes())

    def is_slide(name, max_pixels=0, max_side=1000, **place) -> bool:
        item = Item(id=1, name=name, url=str(tmp_path / name), **place)
        with open_slide(item, max_pixels=max_pixels, max_side=max_side) as slide:
            return slide is not None

    assert is_slide("a.tif")
    assert is_slide("a.tif", max_pixels=599)
    assert not is_slide("a.tif", max_pixels=600)
    assert is_slide("a.tif", max_pixels=600, max_side=29)
    assert not any(is_slide(name) for name in ("a.png", "b.tif", "c.tif"))
    assert not is_slide("a.tif", offset=0, size=10)


def test_what_cannot_be_done_is_told_and_stops_nothing(segment_slide, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    image = random_slide(3, (200, 150))
    tifffile.imwrite(folder / "good.tif", image, tile=(64, 64))
    tifffile.imwrite(folder / "wide.tif", image.astype(np.uint16), tile=(64, 64))
    tifffile.imwrite(folder / "planes.tif", image.transpose(2, 0, 1), planarconfig="separate", photometric="rgb")
    tifffile.imwrite(folder / "turned.tif", image, extratags=[(274, 3, 1, 6, True)])
    write_jpeg_tiles(folder / "damaged.tif", image)
    with tifffile.TiffFile(folder / "damaged.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[4]
    with (folder / "damaged.tif").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(300))
    report = segment_slide(folder, tmp_path / "out")
    assert (report["images"], report["slides"], report["failed"]) == (5, 1, 4)
    failed = {one["file_name"]: one for one in map(json.loads, (tmp_path / "out" / "failed.jsonl").open())}
    assert {one["type"] for one in failed.values()} == {"undecodable-image"}
    assert "8 bits, not 16" in failed["wide.tif"]["reason"]
    assert "planar" in failed["planes.tif"]["reason"]
    assert "orientation 1, not 6" in failed["turned.tif"]["reason"]
    assert "row 64, column 64" in failed["damaged.tif"]["reason"]
    assert sorted(path.name for path in (tmp_path / "out" / "slides").iterdir()) == ["good.parquet", "good.tif"]


def test_a_model_that_sees_the_whole_image_is_told(segment_slide, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_slide(3, (200, 150)), tile=(64, 64))
    segment_slide(tmp_path / "a.tif", tmp_path / "out", model="fit")
    (line,) = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    assert json.loads(line)["type"] == "image-too-large"
    assert "fit has geometry fit" in json.loads(line)["reason"]


def test_several_views_of_a_slide_are_refused(segment_slide, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_slide(3, (200, 150)), tile=(64, 64))
    segment_slide(tmp_path / "a.tif", tmp_path / "out", views=2)
    (line,) = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    assert json.loads(line)["type"] == "invalid-parameter"
    assert json.loads(line)["reason"] == "views is 2; legal for a slide: 1"


def test_work_that_cannot_be_put_aside_ends_the_job_and_fails_no_slide(segment_slide, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_slide(3, (200, 150)), tile=(64, 64))
    (tmp_path / "out" / ".job").mkdir(parents=True)
    in_the_way = tmp_path / "out" / ".job" / "slides"
    in_the_way.write_text("no folder")
    with pytest.raises(NotWrittenError, match="slides"):
        segment_slide(tmp_path / "a.tif", tmp_path / "out")
    in_the_way.unlink()
    report = segment_slide(tmp_path / "a.tif", tmp_path / "out")
    assert (report["slides"], report["failed"]) == (1, 0)


def test_nothing_is_left_of_the_work_at_a_slide_that_failed(slide_repository, tmp_path):
    write_jpeg_tiles(tmp_path / "a.tif", random_slide(3, (400, 150)))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[-1]
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(300))
    stored, settings = find_model(slide_repository, "panoptic", None), Settings(engine_threads=1)
    wish = make_wish(Job(source="", out=tmp_path, model="panoptic", format="parquet"), stored.metadata)
    replicas, done = Replicas(stored, settings), []
    replicas.start()
    try:
        replicas.wait_ready()
        options = SlideOptions(min_pixels=0, work=tmp_path / "work", told=lambda name, rows, total: done.append(rows))
        steps = Steps(replicas, stored.metadata, wish, SINKS["parquet"], settings, options)
        outcome = steps(0, Item(id=1, name="a.tif", url=str(tmp_path / "a.tif")))
    finally:
        replicas.close()
    assert outcome.record["error"]["type"] == "undecodable-image"
    assert max(done) > 3
    assert not list((tmp_path / "work").iterdir())


def test_small_images_of_the_same_job_are_images(segment_slide, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(
        folder / "large.tif",
        random_slide(3, (200, 150)),
        tile=(64, 64),
        resolution=(40000, 40000),
        resolutionunit="centimeter",
    )
    tifffile.imwrite(folder / "small.tif", random_slide(4, (50, 50)))
    report = segment_slide(folder, tmp_path / "out", format="coco-panoptic", slide_pixels=10_000)
    assert (report["images"], report["slides"], report["failed"]) == (2, 1, 0)
    assert [one["file_name"] for one in json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]] == [
        "small.tif"
    ]
    with tifffile.TiffFile(tmp_path / "out" / "slides" / "large.tif") as tiff:
        page = tiff.pages[0]
        assert (page.tile, tiff.is_bigtiff) == ((512, 512), True)
        assert page.tags["XResolution"].value == (40000, 1)
        assert page.resolutionunit == 3
    assert not (tmp_path / "out" / ".job").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_slide_goes_on_at_its_rows(number, slide_repository, read_tree, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_slide(5, (800, 100)), tile=(64, 64))
    arguments = [tmp_path / "a.tif", "--model", "slow", "--slide-pixels", "0", "--repository", slide_repository]
    environment = {**os.environ, "KNET_ENGINE_THREADS": "1"}

    def begin(out) -> subprocess.Popen:
        command = [sys.executable, "-m", "knet", "batch", *map(str, arguments), "--out", str(out)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = begin(killed)
    work = killed / ".job" / "slides" / "0"
    while len(rows := list(work.glob("row*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    rows = sorted(work.glob("row*.npz"))
    assert 3 <= len(rows) < 17
    assert not (killed / "slides").exists()
    written = {path: path.stat().st_mtime_ns for path in rows}

    process = begin(killed)
    while not all(path.exists() for path in rows) or len(list(work.glob("row*.npz"))) == len(rows):
        assert process.poll() is None
        time.sleep(0.005)
    assert {path: path.stat().st_mtime_ns for path in rows} == written  # none is done again
    assert process.wait() == 0
    assert begin(whole).wait() == 0
    assert read_tree(killed) == read_tree(whole)
    assert (killed / "slides" / "a.tif").exists()


@pytest.mark.slow
def test_the_nuclei_of_a_mosaic_are_those_of_the_image_in_memory(tmp_path):
    example = decode((ROOT / "examples" / "nuclei.png").read_bytes())
    mosaic = np.concatenate(
        [np.concatenate([example, example[:, ::-1]], 1), np.concatenate([example[::-1], example], 1)]
    )
    mosaic = np.ascontiguousarray(mosaic[:620, :620])
    tifffile.imwrite(tmp_path / "a.tif", mosaic, tile=(128, 128), compression="zlib")
    Image.fromarray(mosaic).save(tmp_path / "a.png")
    settings = Settings(engine_threads=1)

    def segment(name, format, **asked) -> Path:
        job = Job(source=str(tmp_path / name), out=tmp_path / f"{name} out", model="nuclei", format=format, **asked)
        assert run(job, settings, Console(file=io.StringIO()))["failed"] == 0
        return job.out

    labels = tifffile.imread(segment("a.tif", "coco-panoptic", slide_pixels=0) / "slides" / "a.tif")
    png = np.asarray(Image.open(segment("a.png", "coco-panoptic") / "panoptic" / "a.png")).astype(np.int64)
    np.testing.assert_array_equal(labels, png @ [1, 256, 65536])
    assert labels.max() > 30
