"""The browser's bundle in headless Chromium: its masks are those that ONNX Runtime gives outside of it."""

import functools
import json
import queue
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from export.bundle import ONNXRUNTIME_WEB, make_bundle
from export.bundle_files.serve import Handler
from service import artifact
from service.artifact import Geometry
from service.image import decode
from service.segmenter import Segmenter
from service.segments import Segmentation
from service.variants import choose_variant, open_session

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
WAIT_S = 240  # for an answer of the largest graph, on processors that are busy with other work
PAGE = """<!doctype html><script type="module">
  const send = (answer) => fetch("answer", { method: "POST", body: JSON.stringify(answer) });
  try {
    await import("./knet.js");
    const answer = await knetSegment(await (await fetch("image.png")).blob());
    await send({ ...answer, id_map: [...answer.id_map], isolated: crossOriginIsolated });
  } catch (error) {
    await send({ error: String(error) });
  }
</script>"""


@pytest.fixture(scope="module")
def onnxruntime_web(pytestconfig) -> Path:
    """The unpacked package, kept between runs."""
    folder = pytestconfig.cache.mkdir(ONNXRUNTIME_WEB)
    package = folder / "package"
    if not package.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"npm, which gets {ONNXRUNTIME_WEB}, is not installed")
        packed = subprocess.run([npm, "pack", ONNXRUNTIME_WEB], cwd=folder, capture_output=True, text=True)
        if packed.returncode:
            pytest.skip(f"npm cannot get {ONNXRUNTIME_WEB}: {packed.stderr.strip()[-200:]}")
        archive = folder / packed.stdout.split()[-1]
        with tarfile.open(archive) as opened:
            opened.extractall(folder / "work", filter="data")
        (folder / "work" / "package").rename(package)
        archive.unlink()
    return package


@pytest.fixture(scope="module")
def web_files(tiny, onnxruntime_web, tmp_path_factory) -> Path:
    """The folder `ort` of a bundle made with the package; packing its 40 MB for each test would take long."""
    folder = tmp_path_factory.mktemp("web")
    tiny.write_artifact(folder)
    return unpacked(folder / "tiny" / "1", folder / "bundle", onnxruntime_web=onnxruntime_web) / "ort"


@pytest.fixture
def ask(chromium, web_files, tmp_path) -> Callable[[Path, np.ndarray], dict]:
    """What the page of an artifact's bundle answers for an image."""

    def ask(folder: Path, image: np.ndarray) -> dict:
        root = unpacked(folder, tmp_path / "bundle")
        (root / "ort").symlink_to(web_files)
        Image.fromarray(image).save(root / "image.png")
        return browse(chromium, root, tmp_path / "profile")

    return ask


def unpacked(artifact_folder: Path, out: Path, **options: Any) -> Path:
    """The root of a bundle for browsers, with the test's page."""
    archive = make_bundle(artifact_folder, "browser", out / "b.zip", console=Console(quiet=True), **options)
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(out)
    (root,) = out.glob("*-browser")
    (root / "test.html").write_text(PAGE)
    return root


def browse(chromium: str, root: Path, profile: Path) -> dict:
    """What `test.html` posts."""
    posted: queue.Queue[bytes] = queue.Queue()

    class Posting(Handler):
        def do_POST(self) -> None:  # noqa: N802
            posted.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(functools.partial(Posting, directory=str(root))) as url:
        # No sandbox, as test machines often have no unprivileged user namespaces; the page is our own.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        command = [chromium, *flags, f"{url}/test.html"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                answer: dict = json.loads(posted.get(timeout=WAIT_S))
            finally:
                process.terminate()
    assert "error" not in answer, answer
    return answer


@contextmanager
def serving(handler: Callable[..., Handler]) -> Iterator[str]:
    """URL of a server of that handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def check(answer: dict, folder: Path, image: np.ndarray, *, differing: float = 0.0) -> None:
    """The page's answer against the server's path; `differing`: the share of pixels that may."""
    metadata = artifact.load(folder)
    result = Segmenter(metadata, open_session(folder, choose_variant(metadata, "onnxruntime-fp32"))).segment(image)
    assert isinstance(result, Segmentation)
    assert (answer["height"], answer["width"]) == image.shape[:2] == tuple(answer["scaled_size"])
    assert answer["isolated"]
    assert answer["where"].startswith("WebAssembly, ")
    id_map = np.array(answer["id_map"]).reshape(image.shape[:2])
    ours, theirs = (
        {(metadata.categories[s.class_index].name, s.area, s.bbox) for s in result.segments},
        {(s["category"], s["area"], tuple(s["bbox"])) for s in answer["segments"]},
    )
    for segment in answer["segments"]:
        assert segment["area"] == np.count_nonzero(id_map == segment["id"])
    if not differing:
        assert [s["id"] for s in answer["segments"]] == [s.id for s in result.segments]
        assert ours == theirs
        np.testing.assert_array_equal(id_map, result.id_map)
        return
    assert abs(len(ours) - len(theirs)) <= 1
    # Where two scores are nearly the same, their order may change, and with it the ids: compare outlines.
    different = (outlines(id_map) != outlines(result.id_map)).mean()
    assert different <= differing


def outlines(id_map: np.ndarray) -> np.ndarray:
    """Which pixels (H - 1, W - 1) are of another segment than the next, beside or below."""
    return (id_map[1:, 1:] != id_map[:-1, 1:]) | (id_map[1:, 1:] != id_map[1:, :-1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "statistics": True},
        {"kind": "semantic", "stride": 2},
        {"geometry": Geometry(mode="fit", size=(50, 64))},
    ],
)
def test_page_answers_as_the_server_does(ask, tiny, tmp_path, options):
    metadata = tiny.write_artifact(tmp_path, **options)
    folder = tmp_path / "tiny" / "1"
    red = np.random.default_rng(0).integers(0, 3 if metadata.kind == "semantic" else 13, (10, 8)).repeat(5, 0)
    image = np.full((50, 40, 3), 200, np.uint8)
    image[..., 0] = red.repeat(5, 1)
    check(ask(folder, image), folder, image)


def test_nuclei_are_those_of_onnxruntime(ask):
    image = decode((ROOT / "examples" / "small.png").read_bytes())
    folder = ROOT / "repository" / "nuclei" / "4"
    check(ask(folder, image), folder, image, differing=0.002)


def test_crops_are_those_of_onnxruntime(ask):
    with Image.open(ROOT / "examples" / "tissue.png") as picture:
        image = np.array(picture.convert("RGB").resize((960, 720)))
    folder = ROOT / "repository" / "cropweed" / "2"
    check(ask(folder, image), folder, image, differing=0.002)


def test_page_says_what_is_missing(chromium, tiny, tmp_path):
    tiny.write_artifact(tmp_path)
    root = unpacked(tmp_path / "tiny" / "1", tmp_path / "bundle")
    with pytest.raises(AssertionError, match=r"ort/ort\.wasm\.bundle\.min\.mjs is missing; README\.md says where"):
        browse(chromium, root, tmp_path / "profile")
