"""What `knet bench` does on this machine: run each variant of a model in a process of its own, and time it there.

Alone in its process, a variant's start-up and memory are its own.
"""

import contextlib
import json
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from knet.machine import peak_mb, processor
from service import answers, repository
from service.answers import Wish
from service.artifact import Variant
from service.image import decode
from service.repository import StoredArtifact
from service.segmenter import Segmenter
from service.session import Arrays, Session, available_cpus
from service.variants import open_session, runnable_variants, uses_gpu

Figures = dict[str, Any]
ENOUGH_S = 20.0  # of repeating one step; three repeats there always are
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is measured, and how thoroughly."""

    variants: tuple[str, ...] = ()  # names; none: all that can run here
    batches: tuple[int, ...]  # canvases in one run of the engine
    repeats: int  # of each step, at most
    threads: int | None  # None: the CPUs that may be used


def find_model(folder: Path, name: str, version: str | None) -> StoredArtifact:
    """A model of a repository, the newest version unless one is named.

    Raises:
        ValueError: there is none of that name or version; says what there is.
        ArtifactError: it is damaged.
    """
    versions = repository.list_versions(folder)
    if not versions:
        repository.scan(folder)  # says what it expected
    own = sorted((found for model, found in versions if model == name), key=lambda found: (len(found), found))
    if not own:
        legal = ", ".join(sorted({model for model, _ in versions}))
        raise ValueError(f"there is no model {name} in {folder}; legal: {legal}")
    if version is not None and version not in own:
        raise ValueError(f"{name} has no version {version} in {folder}; legal: {', '.join(own)}")
    return repository.read(folder, name, version or own[-1])


def find_images(path: Path, most: int) -> list[Path]:
    """An image file, or those of a folder, at most so many of them, evenly spaced by name.

    Raises:
        ValueError: there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in _ENDINGS and one.is_file())
    if not found:
        raise ValueError(f"{path} has no images; legal: {', '.join(_ENDINGS)}")
    return [found[len(found) * number // most] for number in range(most)] if len(found) > most else found


def bench(stored: StoredArtifact, images: Sequence[Path], wishes: Wishes, console: Console) -> Figures:
    """Measure every variant that is wished for; one that fails has an `error` and leaves the others alone.

    Raises:
        ArtifactError: a variant is not known, or none can run here.
    """
    metadata = stored.metadata
    chosen = [variant for name in wishes.variants for variant in runnable_variants(metadata, name)]
    results = []
    for variant in chosen or runnable_variants(metadata):
        with console.status(f"Measuring {variant.name} ..."):
            results.append({"variant": variant.name, **_in_a_process(stored, variant, images, wishes)})
    return {
        "model": metadata.name,
        "version": metadata.version,
        "processor": processor(),
        "threads": wishes.threads or available_cpus(),
        "images": [str(image) for image in images],
        "variants": results,
    }


def show(figures: Figures, console: Console) -> None:
    """Print a table, a line for each variant and batch."""
    title = f"{figures['model']}/{figures['version']} on {figures['processor']}, {figures['threads']} threads"
    table = Table("variant", "start-up s", "image ms, p50", "p95", "batch", "ms, p50", "p95", "a second", "peak MB")
    for result in figures["variants"]:
        about = (
            result["variant"],
            *(f"{result[name]:.1f}" if name in result else "" for name in ("start_s", "image_p50_ms", "image_p95_ms")),
        )
        for number, line in enumerate(result.get("batches", []) or [{}]):
            cells = [f"{line[name]:.1f}" if name in line else "" for name in ("p50_ms", "p95_ms", "canvases_per_s")]
            peak = f"{line['peak_mb']:.0f}" if line else ""
            table.add_row(*(about if number == 0 else ("", "", "", "")), str(line.get("batch", "")), *cells, peak)
        table.add_section()
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)
    lines = [line for result in figures["variants"] for line in result.get("batches", [])]
    size = "{1}x{0} pixels".format(*lines[0]["canvas"]) if lines else "the first image"
    console.print(
        f"image: from a file to its answer, {len(figures['images'])} image(s) in turn, without HTTP. "
        f"batch: so many canvases of {size} in one run of the engine.",
        soft_wrap=True,
        highlight=False,
    )
    for result in figures["variants"]:
        if "error" in result:
            console.print(f"{result['variant']}: {result['error']}", style="red", soft_wrap=True)


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds, of seconds."""
    middle, high = np.percentile(times, (50, 95)) * 1000
    return float(middle), float(high)


def _in_a_process(stored: StoredArtifact, variant: Variant, images: Sequence[Path], wishes: Wishes) -> Figures:
    """What a process of its own tells, up to where it failed."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, time.monotonic(), stored, variant, list(images), wishes))
    process.start()
    sender.close()
    figures: Figures = {}
    try:
        while True:
            piece = json.loads(receiver.recv_bytes())
            if "batch" in piece:
                figures.setdefault("batches", []).append(piece)
            else:
                figures |= piece
    except EOFError:  # it is done, or gone
        process.join()
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        receiver.close()
    if process.exitcode and "error" not in figures:
        figures["error"] = f"its process ended with exit code {process.exitcode} (-9: the memory ran out, as a rule)"
    return figures


def _run(
    sender: Connection, started: float, stored: StoredArtifact, variant: Variant, images: list[Path], wishes: Wishes
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the command ends this process
    with contextlib.suppress(OSError):  # of another system
        # Should memory run out, this process goes, and none of those beside it.
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        for piece in _measure(started, stored, variant, images, wishes):
            sender.send_bytes(json.dumps(piece).encode())
    except Exception as error:  # those of the runtimes share no other base
        sender.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())


def _measure(
    started: float, stored: StoredArtifact, variant: Variant, images: list[Path], wishes: Wishes
) -> Iterator[Figures]:
    metadata = stored.metadata
    session = _Recorder(open_session(stored.folder, variant, threads=wishes.threads))
    segmenter = Segmenter(metadata, session)
    wish = Wish(task=metadata.kind, format="rle")
    contents = [image.read_bytes() for image in images]

    def answer(content: bytes) -> None:
        pixels = decode(content)
        answers.document(pixels, answers.view(segmenter.segment(pixels), wish, metadata), wish, metadata)

    answer(contents[0])
    yield {"start_s": time.monotonic() - started, "on_gpu": uses_gpu(variant)}
    canvas = session.first
    times = []
    for number in range(-len(contents), wishes.repeats):  # each image once that is not counted: its shape may be new
        content = contents[number % len(contents)]
        taken = _seconds(partial(answer, content))
        if number >= 0:
            times.append(taken)
        if sum(times) > ENOUGH_S and len(times) >= 3:
            break
    middle, high = percentiles(times)
    yield {"image_p50_ms": middle, "image_p95_ms": high, "peak_mb": peak_mb()}
    for batch in sorted(wishes.batches):
        inputs = {name: np.repeat(array[:1], batch, axis=0) for name, array in canvas.items()}
        times = _repeat(partial(session.run, inputs), wishes.repeats)
        middle, high = percentiles(times)
        yield {
            "batch": batch,
            "canvas": list(inputs["image"].shape[1:3]),
            "p50_ms": middle,
            "p95_ms": high,
            "canvases_per_s": batch / statistics.fmean(times),
            "peak_mb": peak_mb(),
        }


class _Recorder:
    """A session that keeps what it was first given."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.first: Arrays = {}

    def run(self, inputs: Arrays) -> dict[str, Any]:
        """Run the graph once."""
        self.first = self.first or inputs
        return self._session.run(inputs)


def _repeat(step: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    step()
    times: list[float] = []
    while len(times) < repeats and (len(times) < 3 or sum(times) < ENOUGH_S):
        times.append(_seconds(step))
    return times


def _seconds(step: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin
