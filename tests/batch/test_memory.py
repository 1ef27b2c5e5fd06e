"""A hundred times the images take no more memory, and a slide no more when it is higher."""

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

from batch.items import Item
from batch.job import Job, make_wish
from batch.slide import SlideWork
from batch.slide_file import open_slide
from service.artifact import Geometry
from service.join import TileResult
from service.ticket import Ticket

ROOT = Path(__file__).parents[2]


def peak_bytes(arguments, environment) -> int:
    """Most memory of the job's own process; what the system tells once it has ended counts its parent's, too."""
    process = subprocess.Popen([sys.executable, "-m", "knet", *arguments], cwd=ROOT, env=environment)
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max(peak, *(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
        time.sleep(0.02)
    assert process.returncode == 0
    return peak


@pytest.mark.slow
def test_memory_stays_flat(batch_repository, make_scene, encode, tmp_path):
    peaks = {}
    data = encode(make_scene(1))
    for count in (200, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:05}.png").write_bytes(data)
        arguments = ["batch", str(folder), "--out", str(tmp_path / f"out{count}"), "--format", "parquet"]
        arguments += ["--model", "panoptic", "--repository", str(batch_repository)]
        peaks[count] = peak_bytes(arguments, {**os.environ, "KNET_ENGINE_THREADS": "1"})
    assert peaks[20_000] < peaks[200] + 60 * 2**20, {count: f"{peak / 2**20:.0f} MiB" for count, peak in peaks.items()}


def slide_peak(folder: Path, metadata, height: int) -> int:
    """Most bytes that Python and numpy hold at once for a slide of 1024 x `height`, of a model that takes no memory."""
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 255, (64, 1024, 3), np.uint8)
    tiles = (rows[:, left : left + 64] for _ in range(height // 64) for left in range(0, 1024, 64))
    tifffile.imwrite(folder / "a.tif", tiles, shape=(height, 1024, 3), dtype=np.uint8, tile=(64, 64))

    def read_tiles(pixels, plan, values):
        ids = np.ones(plan.canvas_size, np.int32)
        ids[100:140, 100:140] = 2
        class_index = np.array([2, 0])  # the ground, and a thing of which a neighbour sees nothing
        is_thing = class_index == 0
        return [TileResult(id_map=ids, class_index=class_index, score=np.ones(2), is_thing=is_thing)] * len(plan.tiles)

    asked = Job(source="", out=folder, model="", format="parquet")
    with open_slide(Item(id=1, name="a", url=str(folder / "a.tif")), max_pixels=0, max_side=1) as slide:
        work = SlideWork(
            slide=slide,
            metadata=metadata,
            wish=make_wish(asked, metadata),
            work=folder / "work",
            ticket=Ticket(1000),
            told=lambda done, total: None,
        )
        tracemalloc.start()
        try:
            record = work.run(read_tiles, stop=lambda: None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert record["slide"]["objects"] > height // 224 * 4
    assert tifffile.TiffFile(folder / "work" / "labels.tif").pages[0].shape == (height, 1024)
    return peak


def test_memory_of_a_slide_does_not_grow_with_its_height(tiny, tmp_path):
    geometry = Geometry(mode="tile", sizes=(256,), overlap=32)
    metadata = tiny.write_artifact(tmp_path, geometry=geometry, statistics=True)
    low, high = (slide_peak(tmp_path / str(height), metadata, height) for height in (1024, 8192))
    assert high < low + 4 * 2**20  # the image has 21 MiB more, its labels 28
