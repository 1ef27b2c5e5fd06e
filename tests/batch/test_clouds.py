"""Images in an object store: a real client against a server of the S3 protocol on this machine."""

import io
import json
import tarfile

import numpy as np
import pytest
import tifffile
from rich.console import Console

from batch.job import Job, run
from service.settings import Settings

pytest.importorskip("s3fs", reason="needs the extra `s3`")
server = pytest.importorskip("moto.server", reason="needs moto[server], which is not among the pinned packages")


@pytest.fixture
def bucket(monkeypatch):
    """A file system with an empty bucket `photos`."""
    import s3fs

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    # As a user would: the client takes address and credentials from the environment.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.mkdir("photos")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_a_job_reads_from_s3_what_it_reads_from_a_folder(
    bucket, batch_repository, make_scene, encode, read_tree, tmp_path
):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(3):
        (folder / "deep" / f"{number}.png").write_bytes(encode(make_scene(number)))
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number in range(3, 6):
            data = encode(make_scene(number))
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    slide = np.kron(make_scene(7), np.ones((4, 4, 1), np.uint8))
    tifffile.imwrite(folder / "slide.tif", slide, tile=(64, 64), compression="zlib")
    (folder / "bad.png").write_bytes(b"no image")
    bucket.put(f"{folder}/", "photos/", recursive=True)
    assert len(bucket.find("photos")) == 6

    def segment(source, out) -> dict:
        settings = Settings(repository=batch_repository, engine_threads=1, max_batch=2)
        job = Job(source=source, out=out, model="panoptic", format="coco-panoptic", slide_pixels=20_000)
        return run(job, settings, Console(file=io.StringIO()))

    report = segment("s3://photos", tmp_path / "remote")
    assert (report["images"], report["slides"], report["failed"]) == (8, 1, 1)
    segment(str(folder), tmp_path / "local")
    remote, local = read_tree(tmp_path / "remote"), read_tree(tmp_path / "local")
    (failed,) = map(json.loads, remote.pop("failed.jsonl").splitlines())
    assert failed["url"] == "s3://photos/bad.png"
    assert {name for name in local if local[name] != remote.get(name)} == {"failed.jsonl", "job.json"}

    few = segment("s3://photos/deep/*.png", tmp_path / "glob")
    assert few["images"] == 3
