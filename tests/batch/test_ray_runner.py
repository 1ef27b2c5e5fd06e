"""A cluster of two raylets on this machine, one of which is killed in the middle of the job."""

import contextlib
import io
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from rich.console import Console

from batch.job import Job, run

pytest.importorskip("ray", reason="needs the extra `cluster`")
pytest.importorskip("ray.cluster_utils")

ROOT = Path(__file__).parents[2]
STORE = 100 * 2**20


def has_engine(raylet) -> bool:
    """Whether a worker below it has begun an engine process."""
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("spawn_main" in word for word in process.cmdline()):
                return True
    return False


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # as polite as Ray's are, workers starve on a busy machine
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the workers; installed packages need no such thing
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def many_images(tmp_path, make_scene, encode) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(256):
        (folder / f"{number:03}.png").write_bytes(encode(make_scene(number % 200)))
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def test_no_cluster_is_told_at_once(many_images, batch_settings, tmp_path):
    job = Job(
        source=str(many_images), out=tmp_path / "out", model="panoptic", format="overlay", ray_address="127.0.0.1:1"
    )
    with pytest.raises(ConnectionError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        run(job, batch_settings, Console(file=io.StringIO()))


@pytest.mark.slow
def test_a_lost_node_loses_no_image(cluster, many_images, batch_settings, tmp_path, read_tree):
    def job(out, address=None) -> dict:
        wanted = Job(source=str(many_images), out=out, model="slow", format="coco-panoptic", ray_address=address)
        return run(wanted, batch_settings, Console(file=io.StringIO()))

    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    journal = tmp_path / "on_ray" / ".job" / "journal.jsonl"
    lost_at = []

    def lose_a_node() -> None:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        while not (has_engine(raylet) and journal.exists() and journal.read_bytes().count(b"\n") >= 40):
            time.sleep(0.02)
        lost_at.append(journal.read_bytes().count(b"\n"))
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    report = job(tmp_path / "on_ray", cluster.address)
    thread.join()
    assert lost_at[0] < 257
    assert (report["images"], report["failed"]) == (257, 1)
    job(tmp_path / "here")
    assert read_tree(tmp_path / "on_ray") == read_tree(tmp_path / "here")


@pytest.mark.slow
def test_slides_come_after_the_images(cluster, make_scene, encode, batch_settings, tmp_path, read_tree):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(make_scene(number)))
        slide = np.kron(make_scene(number), np.ones((4, 4, 1), np.uint8))
        tifffile.imwrite(folder / f"slide{number}.tif", slide, tile=(64, 64), compression="zlib")
    tifffile.imwrite(folder / "bad.tif", slide.astype(np.uint16), tile=(64, 64))

    def job(out, address=None) -> dict:
        wanted = Job(
            source=str(folder),
            out=out,
            model="panoptic",
            format="coco-panoptic",
            slide_pixels=20_000,
            ray_address=address,
        )
        return run(wanted, batch_settings, Console(file=io.StringIO()))

    report = job(tmp_path / "on_ray", cluster.address)
    assert (report["images"], report["slides"], report["failed"]) == (7, 3, 1)
    job(tmp_path / "here")
    assert read_tree(tmp_path / "on_ray") == read_tree(tmp_path / "here")
