"""A job over many images: what is asked, and its way from the list of images to the finished files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from batch import local_runner
from batch.folder import open_folder
from batch.progress import JobProgress
from batch.sinks import SINKS, Format
from batch.sources import list_items
from batch.steps import SlideOptions
from service import repository
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.errors import ArtifactError
from service.repository import StoredArtifact
from service.schemas import SegmentQuery
from service.settings import Settings
from service.variants import runnable_variants
from service.wishes import read_wish


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked.

    `source`, `image_folder`: see `sources.list_items`. `version`: None: the newest. `categories`: ids or names; empty:
    all. Thresholds: None: the model's. `views`: see `service/views.py`; slides take 1. `slide_pixels`: images of more
    are slides; None: those above the limit of the settings. `ray_address`: see `ray_runner.run`; None: this machine
    alone, without Ray.
    """

    source: str
    out: Path
    model: str
    format: Format
    version: str | None = None
    image_folder: str | None = None
    score_threshold: float | None = None
    overlap_threshold: float | None = None
    views: int = 1
    categories: tuple[str, ...] = ()
    slide_pixels: int | None = None
    ray_address: str | None = None


def run(job: Job, settings: Settings, console: Console) -> dict[str, Any]:
    """Run the job, or the rest of it; gives what `job.json` says.

    Raises:
        ValueError: the images, the folder of the output, or the model and what is asked of it do not fit.
        ServiceError: the model cannot be run.
    """
    stored = find_model(settings.repository, job.model, job.version)
    wish = make_wish(job, stored.metadata)
    request = describe(job, stored, settings)
    folder = open_folder(job.out, request, list_items(job.source, job.image_folder), SINKS[job.format])
    if folder is None:
        console.print(f"{job.out} is finished: nothing to do", soft_wrap=True, highlight=False)
        return {}
    try:
        if folder.num_done:
            console.print(f"going on: {folder.num_done} of {folder.num_items} images are done", highlight=False)
        if folder.num_done < folder.num_items:
            with JobProgress(console, folder.num_done, folder.num_items) as progress:
                slide_pixels = request["slide_pixels"]
                if job.ray_address is None:
                    slides = SlideOptions(min_pixels=slide_pixels, work=folder.slide_work, told=progress.tell_slide)
                    local_runner.run(folder, stored, settings, wish, job.format, progress.advance, slides)
                else:
                    from batch import ray_runner

                    ray_runner.run(
                        folder,
                        stored,
                        settings,
                        wish,
                        job.format,
                        progress.advance,
                        slide_pixels=slide_pixels,
                        address=job.ray_address,
                    )
            console.print(f"{progress.rate:.1f} images/s", highlight=False)
    except BaseException:
        folder.close()
        raise
    return folder.finish(stored.metadata)


def find_model(folder: Path, name: str, version: str | None) -> StoredArtifact:
    """A model of a repository, its newest version if none is named. Raises ServiceError."""
    versions = [number for known, number in repository.list_versions(folder) if known == name]
    if not versions:
        known = sorted({known for known, _ in repository.list_versions(folder)})
        raise ArtifactError(f"no model {name} in {folder}; there: {', '.join(known) or 'none'}")
    return repository.read(folder, name, version or max(versions, key=int))


def make_wish(job: Job, metadata: ArtifactMetadata) -> Wish:
    """What is asked of each image; raises ServiceError where the model does not do that."""
    query = SegmentQuery(
        task=SINKS[job.format].task,
        format="rle",
        score_threshold=job.score_threshold,
        overlap_threshold=job.overlap_threshold,
        views=job.views,
        categories=list(job.categories),
    )
    return read_wish(query, "application/json", metadata)


def describe(job: Job, stored: StoredArtifact, settings: Settings) -> dict[str, Any]:
    """All that decides about the output, which is the same whenever this is."""
    variant = runnable_variants(stored.metadata, settings.of_model(job.model).variant)[0]
    return {
        "input": job.source,
        "image_folder": job.image_folder,
        "model": job.model,
        "version": stored.metadata.version,
        "artifact": stored.digest,
        "variant": variant.name,
        "format": job.format,
        "score_threshold": job.score_threshold,
        "overlap_threshold": job.overlap_threshold,
        "views": job.views,
        "categories": list(job.categories),
        "slide_pixels": settings.max_pixels if job.slide_pixels is None else job.slide_pixels,
    }
