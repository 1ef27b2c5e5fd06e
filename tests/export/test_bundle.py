"""Bundles run as they are, apart from the project: the runner's answers are the server's."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from export.bundle import make_bundle
from export.bundle_files import artifact as light_artifact
from export.bundle_files import pixels as light_pixels
from export.errors import ExportError
from service import answers, artifact, pixels
from service.answers import Wish
from service.artifact import Geometry
from service.errors import ArtifactError
from service.image import decode
from service.segmenter import Segmenter
from service.variants import choose_variant, open_session

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "repository"
TESTS = ROOT / "tests"
NOT_OF_A_DEVICE = {"cv2", "pydantic", "fastapi", "orjson", "httpx", "typer", "torch", "onnx", "knet", "export", "model"}
SHRINKS = Geometry(mode="fit", size=(64, 96))


@pytest.fixture
def panoptic(tiny, tmp_path) -> Path:
    tiny.write_artifact(tmp_path)
    return tmp_path / "tiny" / "1"


def bundle(folder, target, out, **options) -> Path:
    return make_bundle(folder, target, out, console=Console(quiet=True), **options)


def unpack(archive: Path, folder: Path) -> Path:
    """The bundle's own folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def run(root: Path, *arguments: object, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", *options.get("flags", ()), root / "run.py", *arguments]
    return subprocess.run([str(part) for part in command], cwd=root, capture_output=True, text=True, check=check)


def served(folder: Path, image: Path, **thresholds) -> dict:
    """What a server answers for an image, but for its timing."""
    metadata = artifact.load(folder)
    segmenter = Segmenter(metadata, open_session(folder, choose_variant(metadata, "onnxruntime-fp32")))
    array = decode(image.read_bytes())
    wish = Wish(task=metadata.kind, format="rle")
    result = answers.view(segmenter.segment(array, **thresholds), wish, metadata)
    return json.loads(json.dumps(answers.document(array, result, wish, metadata)))


def written(root: Path, image: Path) -> dict:
    answer = json.loads((root / "out" / f"{image.name}.json").read_text())
    assert set(answer.pop("timing_ms")) == {"decode", "engine", "encode", "total"}
    return answer


def blobs(path: Path, size: tuple[int, int], values: int) -> Path:
    """An image of smooth blobs whose red values are in 0..values - 1."""
    noise = cv2.GaussianBlur(np.random.default_rng(3).random(size, np.float32), (0, 0), 5)
    red = ((noise - noise.min()) / (np.ptp(noise) + 1e-6) * values).astype(np.uint8)
    Image.fromarray(np.stack([red, 255 - red // 2, 255 - red], axis=2)).save(path)
    return path


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (150, 130)),  # tiles
        ({"stride": 2, "statistics": True}, (60, 50)),
        ({"geometry": SHRINKS}, (150, 130)),
        ({"kind": "semantic"}, (60, 50)),
        ({"kind": "semantic", "confidence": True}, (60, 50)),
        ({"kind": "instance", "stride": 4, "mask_upsample": 2}, (50, 70)),
        ({"kind": "instance", "stride": 4, "geometry": SHRINKS}, (150, 130)),
    ],
)
def test_runner_answers_as_the_server_does(tiny, tmp_path, options, size):
    """To the bit, resized images and masks included."""
    kind = tiny.write_artifact(tmp_path, **options).kind
    folder = tmp_path / "tiny" / "1"
    image = blobs(tmp_path / "image.png", size, {"panoptic": 13, "instance": 16, "semantic": 3}[kind])
    root = unpack(bundle(folder, "arm64", tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    done = run(root, image)
    answer = written(root, image)
    assert answer == served(folder, image)
    assert len(answer["segments"]) >= 3
    assert done.stdout.startswith(f"{image}: ")
    with Image.open(root / "out" / "image.png.overlay.png") as picture:
        assert picture.size == (size[1], size[0])


@pytest.mark.parametrize(("name", "image"), [("nuclei/4", "small.png"), ("cropweed/2", "tissue.png")])
def test_bundled_models_answer_as_in_the_server(tmp_path, name, image):
    archive = bundle(REPOSITORY / name, "intel", tmp_path / "b.tar.gz", variant="onnxruntime-fp32")
    root = unpack(archive, tmp_path / "unpacked")
    path = ROOT / "examples" / image
    run(root, path)
    answer = written(root, path)
    assert answer == served(REPOSITORY / name, path)
    assert answer["segments"]
    assert "CC" in (root / "README.md").read_text() or "Apache" in (root / "README.md").read_text()
    assert (root / "MODEL_CARD.md").read_bytes() == (REPOSITORY / name / "README.md").read_bytes()


def test_runner_needs_numpy_pillow_and_the_runtime_alone(panoptic, tmp_path):
    image = blobs(tmp_path / "image.png", (40, 40), 13)
    root = unpack(bundle(panoptic, "jetson", tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    done = run(root, image, flags=["-X", "importtime"])
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"numpy", "PIL", "onnxruntime", "service"} <= imported
    assert not imported & NOT_OF_A_DEVICE


def test_openvino_variant_runs(tiny, tmp_path):
    pytest.importorskip("openvino")
    metadata = tiny.write_artifact(tmp_path, kind="semantic")
    folder = tmp_path / "tiny" / "1"
    variants = metadata.variants + tuple(
        metadata.variants[0].model_copy(update={"runtime": "openvino", "precision": precision, "outside_limits": bad})
        for precision, bad in (("int8", True), ("bf16", False))
    )
    artifact.save(metadata.model_copy(update={"variants": variants}), folder)
    image = blobs(tmp_path / "image.png", (60, 50), 3)
    root = unpack(bundle(folder, "intel", tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    (kept,) = artifact.load(root).variants
    assert kept.name == "openvino-bf16"
    run(root, image)
    assert written(root, image) == served(folder, image)
    assert "--provider is for ONNX Runtime" in run(root, image, "--provider", "cpu", check=False).stderr
    forced = bundle(folder, "intel", tmp_path / "forced.tar.gz", variant="openvino-int8")
    assert artifact.load(unpack(forced, tmp_path / "forced")).variants[0].precision == "int8"


@pytest.mark.parametrize("target", ["jetson", "arm64", "intel", "browser"])
def test_archive_is_whole_and_always_the_same(panoptic, tmp_path, target):
    ending = ".zip" if target == "browser" else ".tar.gz"
    first, second = (bundle(panoptic, target, tmp_path / f"{name}{ending}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    root = unpack(first, tmp_path / "unpacked")
    assert root.name == f"tiny-1-{target}"
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=root, capture_output=True, text=True, check=True)
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert checked == {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert {"README.md", "artifact.json", "model.onnx"} <= checked
    readme = (root / "README.md").read_text()
    assert "$" not in readme
    assert "onnxruntime-fp32" in readme
    assert f"tiny-1-{target}{ending}" in readme
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_damaged_graph_is_named(panoptic, tmp_path):
    root = unpack(bundle(panoptic, "arm64", tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    with (root / "model.onnx").open("ab") as file:
        file.write(b"x")
    done = run(root, blobs(tmp_path / "image.png", (40, 40), 13), check=False)
    assert done.returncode == 1
    assert "model.onnx is damaged: its sha256 is" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.png"], "No such file or directory: 'absent.png'"),
        (["run.py"], "run.py: the bytes are no image of a format taken"),
        (["deep.png"], "deep.png: colour of 16 bits a sample is more than this runner reads"),
        (["image.png", "--score-threshold", "2"], "score_threshold must lie in 0..1, not 2.0"),
        (["image.png", "other/image.png"], "several images are named image.png"),
        (["image.png", "--provider", "tensorrt"], "no provider tensorrt; it has cpu"),
    ],
)
def test_errors_are_one_line(panoptic, tmp_path, arguments, message):
    root = unpack(bundle(panoptic, "arm64", tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    blobs(root / "image.png", (40, 40), 13)
    cv2.imwrite(str(root / "deep.png"), np.full((8, 8, 3), 40_000, np.uint16))
    done = run(root, *arguments, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_score_threshold_and_turned_and_16_bit_images(panoptic, tmp_path):
    root = unpack(bundle(panoptic, "arm64", tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    image = blobs(tmp_path / "image.png", (40, 60), 13)
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.open(image).save(turned, exif=exif)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.array(Image.open(image))[..., 0].astype(np.uint16) * 16 + 8).save(deep)
    run(root, image, turned, deep, "--score-threshold", "0.7")
    for path in (image, turned, deep):
        assert written(root, path) == served(panoptic, path, score_threshold=0.7)
    assert written(root, turned)["image"] == {"width": 40, "height": 60}


def test_what_cannot_be_made_is_refused_with_what_can(tiny, panoptic, tmp_path):
    with pytest.raises(ExportError, match=r"no variant 'onnxruntime-int4'; legal: onnxruntime-fp32"):
        bundle(panoptic, "arm64", tmp_path / "b.tar.gz", variant="onnxruntime-int4")
    with pytest.raises(ValueError, match=r"legal: jetson, arm64, intel, browser"):
        bundle(panoptic, "toaster", tmp_path / "b.tar.gz")
    with pytest.raises(ValueError, match=r"must end with \.zip"):
        bundle(panoptic, "browser", tmp_path / "b.tar.gz")
    there = tmp_path / "there.tar.gz"
    there.touch()
    with pytest.raises(ValueError, match="exists"):
        bundle(panoptic, "arm64", there)
    with pytest.raises(ValueError, match="npm pack onnxruntime-web@"):
        bundle(panoptic, "browser", tmp_path / "b.zip", onnxruntime_web=tmp_path)
    tiny.write_artifact(tmp_path, kind="instance", name="masks")
    with pytest.raises(ExportError, match="kind instance; the target browser takes panoptic and semantic"):
        bundle(tmp_path / "masks" / "1", "browser", tmp_path / "b.zip")
    (panoptic / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="sha256"):
        bundle(panoptic, "arm64", tmp_path / "b.tar.gz")
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("by_area", [False, True])
@pytest.mark.parametrize(
    ("size", "new"),
    [
        ((100, 150), (64, 96)),
        ((64, 96), (32, 48)),
        ((64, 96), (16, 24)),
        ((101, 77), (100, 76)),
        ((700, 933), (251, 333)),
        ((1, 5), (1, 3)),
        ((480, 640), (720, 960)),
    ],
)
def test_images_are_resized_as_by_opencv(size, new, by_area):
    if by_area and new > size:
        pytest.skip("area means are for shrinking")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    ours, theirs = (module.resize_image(image, new, by_area=by_area) for module in (light_pixels, pixels))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("size", "new"), [((25, 38), (520, 696)), ((64, 96), (50, 33)), ((100, 7), (100, 31))])
def test_maps_are_resized_as_by_opencv(size, new):
    values = np.random.default_rng(0).random(size, np.float32)
    np.testing.assert_allclose(light_pixels.resize_map(values, new), pixels.resize_map(values, new), rtol=0, atol=2e-7)


def test_sums_and_pictures_are_as_by_opencv():
    rng = np.random.default_rng(0)
    image, tint = rng.integers(0, 256, (2, 33, 47, 3), np.uint8)
    np.testing.assert_allclose(light_pixels.mean_and_std(image), pixels.mean_and_std(image), rtol=1e-12)
    weight = rng.random((33, 47), np.float32)
    blended = [module.blend(image, tint, weight).astype(int) for module in (light_pixels, pixels)]
    assert np.abs(blended[0] - blended[1]).max() <= 1
    np.testing.assert_array_equal(decode(light_pixels.png(image)), image)


@pytest.mark.parametrize("folder", sorted(path.parent for path in REPOSITORY.glob("*/*/artifact.json")), ids=str)
def test_light_metadata_say_what_the_servers_say(folder, tmp_path):
    shutil.copy(folder / artifact.FILE_NAME, tmp_path)
    light, full = light_artifact.load(tmp_path), artifact.load(folder)
    for name in (*light.__dataclass_fields__, "num_thing_slots"):
        mine, theirs = getattr(light, name), getattr(full, name)
        if name not in ("categories", "geometry", "thresholds", "variants"):
            assert mine == theirs
            continue
        pairs = zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)]
        for one, other in pairs:
            assert all(getattr(one, field) == getattr(other, field) for field in one.__dataclass_fields__)
    assert light.geometry.largest_canvas == full.geometry.largest_canvas
