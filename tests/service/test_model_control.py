"""Models that come, change and go while requests are answered."""

import concurrent.futures
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

KEY = "a-key-of-a-person-who-may-segment"
ADMIN = {"Authorization": "Bearer an-administrators-key-0123456789"}


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    tiny.write_artifact(tmp_path, version="1")
    return tmp_path


@pytest.fixture
def url(folder) -> Iterator[str]:
    admin = ADMIN["Authorization"].removeprefix("Bearer ")
    settings = Settings(repository=folder, port=0, admin_keys=admin, api_keys=KEY, engine_threads=1)
    with background(settings) as url:
        with KNetClient(url, api_key=KEY) as client:
            client.wait_ready(60)
        yield url


@pytest.fixture
def segment(url, png, scene) -> Callable[..., httpx.Response]:
    """Post the scene; to a version, or the newest."""
    posted = png(scene)

    def post(version: str | None = None, **options) -> httpx.Response:
        route = f"{url}/v1/models/tiny/{f'versions/{version}/' if version else ''}segment"
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.post(route, content=posted, headers=headers, timeout=60, **options)

    return post


def change(url: str, route: str, headers=ADMIN) -> httpx.Response:
    return httpx.post(f"{url}/v1/models/{route}", headers=headers, timeout=120)


def damage(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"not a graph")


def test_models_are_changed_by_administrators_only(url):
    for route in ("reload", "tiny/versions/1/load", "tiny/versions/1/unload"):
        assert change(url, route, headers={}).status_code == 401
        refused = change(url, route, headers={"Authorization": f"Bearer {KEY}"})
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:knet:problem:forbidden"


def test_a_new_version_is_loaded_and_an_old_one_unloaded(url, folder, tiny, segment):
    tiny.write_artifact(folder, version="2")
    assert segment("2").status_code == 404
    loaded = change(url, "tiny/versions/2/load")
    assert loaded.status_code == 200, loaded.text
    assert loaded.json()["ready"]
    assert loaded.json()["running"] == "onnxruntime-fp32"
    assert segment().json()["version"] == "2"
    assert change(url, "tiny/versions/1/unload").status_code == 204
    assert segment("1").status_code == 404
    last = change(url, "tiny/versions/2/unload")
    assert last.status_code == 409
    assert "last model" in last.json()["detail"]
    assert segment().status_code == 200


def test_a_reload_follows_the_repository(url, folder, tiny, segment):
    assert change(url, "reload").json() == {"changed": [], "problems": {}}
    tiny.write_artifact(folder, version="2")
    tiny.write_artifact(folder, version="3")
    damage(folder / "tiny" / "3")
    shutil.rmtree(folder / "tiny" / "1")
    answer = change(url, "reload").json()
    assert answer["changed"] == ["tiny/2", "tiny/1"]
    assert "sha256" in answer["problems"]["tiny/3"]["detail"]
    assert segment().json()["version"] == "2"


@pytest.mark.parametrize("rest", ["nothing", "an empty folder"])
def test_a_reload_while_the_repository_is_away_unloads_nothing(url, folder, tiny, segment, rest):
    tiny.write_artifact(folder, version="2")
    assert change(url, "reload").json()["changed"] == ["tiny/2"]
    away = folder.rename(folder.with_name("away"))
    if rest == "an empty folder":
        folder.mkdir()
    failed = change(url, "reload")
    assert (failed.status_code, failed.json()["type"]) == (409, "urn:knet:problem:load-failed")
    assert "all that are loaded stay" in failed.json()["detail"]
    assert [segment(version).status_code for version in ("1", "2")] == [200, 200]
    if rest == "an empty folder":
        folder.rmdir()
    away.rename(folder)
    assert change(url, "reload").json() == {"changed": [], "problems": {}}


@pytest.mark.parametrize("how", ["file", "graph", "metadata"])
def test_a_failed_load_leaves_the_old_version_serving(url, folder, segment, how):
    before = segment().json()["segments"]
    path = folder / "tiny" / "1" / "artifact.json"
    if how == "metadata":
        path.write_text("{")
    else:
        damage(path.parent)
    if how == "graph":  # the digest is right, the graph is not
        from service.artifact import file_sha256

        metadata = json.loads(path.read_text())
        metadata["variants"][0]["sha256"] = file_sha256(path.parent / "model.onnx")
        path.write_text(json.dumps(metadata))
    failed = change(url, "tiny/versions/1/load")
    assert failed.status_code == 409
    assert failed.json()["type"] == "urn:knet:problem:load-failed"
    reason = {"file": "sha256", "graph": "cannot load", "metadata": "not JSON"}[how]
    assert reason in failed.json()["detail"]
    if how != "file":  # a reload looks for changes in artifact.json
        assert reason in change(url, "reload").json()["problems"]["tiny/1"]["detail"]
    assert segment().json()["segments"] == before


@pytest.mark.parametrize("route", ["tiny/versions/9/load", "tiny/versions/9/unload", "x/versions/1/load",
                                   "..%2Ftiny/versions/1/load", "tiny/versions/..%2F1/load"])  # fmt: skip
def test_what_is_not_there_is_a_404(url, route):
    assert change(url, route).status_code == 404


def test_no_request_is_lost_while_a_version_is_loaded_anew(url, segment):
    stop = threading.Event()

    def ask() -> list[int]:
        codes = []
        while not stop.is_set():
            codes.append(segment().status_code)
        return codes

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for _ in range(3):
                assert change(url, "tiny/versions/1/load").status_code == 200
        finally:
            stop.set()
        codes = [code for future in asking for code in future.result()]
    assert set(codes) == {200}


@pytest.mark.slow
def test_memory_stays_where_it_was_over_100_reloads(url):
    """Of this process, which the server shares, and its open files; engine processes end with their version."""

    def measure() -> tuple[int, int]:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096, len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(10):
        assert change(url, "tiny/versions/1/load").status_code == 200
    memory, files = measure()
    for _ in range(100):
        assert change(url, "tiny/versions/1/load").status_code == 200
    after, files_after = measure()
    assert files_after <= files + 1
    assert after - memory < 0.02 * memory


@pytest.mark.skipif(sys.platform != "linux", reason="signals")
def test_sighup_reloads(folder, tiny):
    command = [sys.executable, "-m", "knet", "serve", "--repository", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "listening on" in line)
        url = line.split("listening on ")[1].split(" ")[0]
        threading.Thread(target=process.stderr.read, daemon=True).start()
        with KNetClient(url) as client:
            client.wait_ready(60)
            tiny.write_artifact(folder, version="2")
            process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 60
            while client.models()[0]["versions"] != ["1", "2"]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        process.terminate()
        assert process.wait(30) == 0
