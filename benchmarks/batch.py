"""How much of engine and host a batch job delivers: its images a second against 1 / (engine + host), each alone.

    python -m benchmarks.batch --images FOLDER [--count 100] [--model nuclei] [--out FILE]

Alone: each image through the same steps in one thread, the engine in this process with all processors. The job: its own
processes, from the first image done to the last. Prints a table, then one JSON line.
"""

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from numpy.typing import NDArray
from rich.console import Console

from batch import local_runner
from batch.folder import open_folder
from batch.job import Job, describe, find_model, make_wish
from batch.progress import JobProgress
from batch.sinks import SINKS
from batch.sources import list_items
from batch.steps import SlideOptions
from benchmarks.load import Figures, print_figures, write_json
from service import answers
from service.image import decode
from service.repository import StoredArtifact
from service.segmenter import Segmenter
from service.session import Session
from service.settings import Settings
from service.variants import open_session, runnable_variants


class TimedSession:
    """A session that adds up its time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.seconds = 0.0

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The session's outputs."""
        begin = time.perf_counter()
        outputs = self._session.run(inputs)
        self.seconds += time.perf_counter() - begin
        return outputs


def measure_alone(files: list[Path], stored: StoredArtifact, job: Job) -> tuple[float, float]:
    """Milliseconds of engine and of host for an image, means over the files."""
    session = TimedSession(open_session(stored.folder, runnable_variants(stored.metadata, None)[0]))
    segmenter = Segmenter(stored.metadata, session)
    wish, sink = make_wish(job, stored.metadata), SINKS[job.format]

    def one(file: Path) -> None:
        pixels = decode(file.read_bytes())
        shown = answers.view(segmenter.segment(pixels), wish, stored.metadata)
        orjson.dumps(sink.describe(pixels, shown, wish, stored.metadata))
        if sink.draw is not None:
            sink.draw(pixels, shown, stored.metadata)

    for file in files:  # the first run of each shape is slow
        one(file)
    session.seconds = 0.0
    begin = time.perf_counter()
    for file in files:
        one(file)
    total = time.perf_counter() - begin
    return 1000 * session.seconds / len(files), 1000 * (total - session.seconds) / len(files)


def measure_job(folder: Path, stored: StoredArtifact, job: Job, settings: Settings) -> float:
    """Images a second of the job."""
    open_job = open_folder(job.out, describe(job, stored, settings), list_items(str(folder)), SINKS[job.format])
    assert open_job is not None
    with JobProgress(Console(file=io.StringIO()), 0, open_job.num_items) as progress:
        wish = make_wish(job, stored.metadata)
        slides = SlideOptions(min_pixels=settings.max_pixels, work=open_job.slide_work)
        local_runner.run(open_job, stored, settings, wish, job.format, progress.advance, slides)
        rate = progress.rate
    open_job.finish(stored.metadata)
    return rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = Settings(host="127.0.0.1", api_keys=())
    stored = find_model(settings.repository, options.model, None)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "images"
        folder.mkdir()
        found = sorted(options.images.iterdir())
        for file in found[:: max(1, len(found) // options.count)][: options.count]:
            shutil.copy(file, folder)
        files = sorted(folder.iterdir())
        job = Job(source=str(folder), out=Path(work) / "out", model=options.model, format="coco-panoptic")
        engine, host = measure_alone(files, stored, job)
        rate = measure_job(folder, stored, job, settings)
    figures: Figures = {
        "images": len(files),
        "engine_ms": engine,
        "host_ms": host,
        "alone_per_s": 1000 / (engine + host),
        "job_per_s": rate,
        "efficiency": rate * (engine + host) / 1000,
    }
    print_figures("Batch", [figures])
    write_json({"benchmark": "batch", "model": options.model, **figures}, options.out)


if __name__ == "__main__":
    main()
