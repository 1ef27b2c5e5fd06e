"""Most memory of a job's process: for few and for many images, and for slides of one width that become higher.

    python -m benchmarks.batch_memory --images FOLDER [--counts 200 20000] [--slides 20000x2500 20000x20000]
        [--model simulated] [--out FILE]

Images: pieces of 64 x 64 pixels of those in FOLDER, 500 different ones, the same file under many names. Slides
(WIDTHxHEIGHT): pieces of 256 x 256 side by side, in tiles of 512. `simulated`: an engine of 1 ms a run that gives
60 segments a tile (`benchmarks.simulated`); else a model of the repository, for slides alone. The engine's process is
not counted. Prints a table, then one JSON line.
"""

import argparse
import io
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import tifffile
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from batch import local_runner
from batch.folder import open_folder
from batch.job import Job, describe, find_model, make_wish
from batch.progress import JobProgress
from batch.sinks import SINKS
from batch.sources import list_items
from batch.steps import SlideOptions
from benchmarks import simulated
from benchmarks.load import Figures, print_figures, write_json
from service import artifact
from service.artifact import Geometry
from service.settings import Settings
from service.variants import open_session

_PIECES = 500
_TILE = 512


def write_images(folder: Path, sources: list[Path], count: int) -> None:
    """`count` files, of which 500 differ."""
    simulated.write_crops(folder, sources, count=min(count, _PIECES), side=64)
    different = sorted(folder.iterdir())
    for number in range(len(different), count):
        (folder / f"more{number:06}.png").hardlink_to(different[number % len(different)])


def write_slide(path: Path, sources: list[Path], size: tuple[int, int]) -> None:
    """A tiled TIFF of (height, width)."""
    rng = np.random.default_rng(0)
    images = [np.asarray(Image.open(source).convert("RGB")) for source in sources]

    def piece() -> NDArray[np.uint8]:
        image = images[rng.integers(len(images))]
        top, left = (int(rng.integers(0, length - 255)) for length in image.shape[:2])
        return image[top : top + 256, left : left + 256]

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for _ in range(-(-size[0] // _TILE) * -(-size[1] // _TILE)):
            yield np.block([[[piece()], [piece()]], [[piece()], [piece()]]])

    tifffile.imwrite(path, tiles(), shape=(*size, 3), dtype=np.uint8, tile=(_TILE, _TILE), compression="zlib")


def write_model(repository: Path, geometry: Geometry) -> None:
    """The simulated model with another geometry."""
    side = geometry.largest_canvas
    folder = simulated.write_artifact(repository, seconds=0.001, num_segments=60, size=side, stride=1)
    artifact.save(artifact.load(folder).model_copy(update={"geometry": geometry}), folder)


def run_job(source: Path, out: Path, model: str, repository: Path, slide_pixels: int) -> None:
    """The job, in this process."""
    settings = Settings(host="127.0.0.1", api_keys=(), repository=repository)
    stored = find_model(repository, model, None)
    job = Job(source=str(source), out=out, model=model, format="parquet", slide_pixels=slide_pixels)
    folder = open_folder(out, describe(job, stored, settings), list_items(str(source)), SINKS["parquet"])
    assert folder is not None
    opener = simulated.open_session if model == simulated.NAME else open_session
    with JobProgress(Console(file=io.StringIO()), 0, folder.num_items) as progress:
        slides = SlideOptions(min_pixels=slide_pixels, work=folder.slide_work)
        wish = make_wish(job, stored.metadata)
        local_runner.run(folder, stored, settings, wish, "parquet", progress.advance, slides, opener=opener)
    report = folder.finish(stored.metadata)
    assert not report["failed"], (out / "failed.jsonl").read_text()[:1000]


def measure(source: Path, out: Path, model: str, repository: Path, slide_pixels: int) -> tuple[float, float]:
    """Most resident MiB of the job's process, and its seconds."""
    arguments = [str(source), str(out), model, str(repository), str(slide_pixels)]
    begin = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.batch_memory", "--job", *arguments]
    # It tells itself: what the system tells of a process that has ended counts the memory of its parent, too.
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return float(output.split()[-1]) / 1024, time.monotonic() - begin


def peak_kib() -> int:
    """Most resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="*", default=[200, 20_000])
    parser.add_argument("--slides", nargs="*", default=["20000x2500", "20000x20000"])
    parser.add_argument("--model", default=simulated.NAME)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sources = [path for path in sorted(options.images.iterdir()) if min(Image.open(path).size) >= 256][:100]
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory() as work:
        small, tiled = Path(work) / "small", Path(work) / "tiled"
        write_model(small, Geometry(mode="fit", size=(64, 64)))
        write_model(tiled, Geometry(mode="tile", sizes=(_TILE,), overlap=96))
        number = itertools.count()
        for count in options.counts:
            folder = Path(work) / f"images{count}"
            write_images(folder, sources, count)
            out = Path(work) / f"out{next(number)}"
            peak, seconds = measure(folder, out, simulated.NAME, small, 10**9)
            figures.append(
                {"images": count, "pixels": count * 64 * 64, "mib": peak, "seconds": seconds, "objects": None}
            )
        repository = tiled if options.model == simulated.NAME else Settings(host="127.0.0.1", api_keys=()).repository
        for size in options.slides:
            width, height = map(int, size.split("x"))
            path = Path(work) / f"{size}.tif"
            write_slide(path, sources, (height, width))
            out = Path(work) / f"out{next(number)}"
            peak, seconds = measure(path, out, options.model, repository, 0)
            objects = orjson.loads((out / "slides.jsonl").read_bytes())["objects"]
            entry = {"images": size, "pixels": width * height, "mib": peak, "seconds": seconds, "objects": objects}
            figures.append(entry)
    print_figures("Memory of jobs", figures)
    write_json({"benchmark": "batch_memory", "model": options.model, "jobs": figures}, options.out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        source, out, model, repository, pixels = sys.argv[2:]
        run_job(Path(source), Path(out), model, Path(repository), int(pixels))
        print(peak_kib())
    else:
        main()
