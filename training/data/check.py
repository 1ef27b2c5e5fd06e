"""Opens every image and annotation of a data set: what is wrong with it, what is in it, and what fits it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from training.data.coco_panoptic import PanopticSource
from training.data.index import Annotation, DataIndex, Record
from training.data.statistics import Statistics, Tally
from training.data.suggestions import Suggestion, suggest
from training.data.threads import num_threads
from training.dataset import read_sample


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of one split. `problems` keep it from being used; `warnings` are to be looked at. Each names its file."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    statistics: Statistics
    suggestions: tuple[Suggestion, ...]
    digests: dict[bytes, Path] = field(repr=False)  # of the image files, to find one that is in both splits


def check(index: DataIndex, *, show_progress: bool = True) -> Report:
    """Read all images and annotations, several at a time; memory does not grow with their number of pixels."""
    problems, warnings = [], []
    digests: dict[bytes, Path] = {}
    tally = Tally(index=index)
    results = track(
        _read_all(index.records), description="checking", total=len(index.records), disable=not show_progress
    )
    for record, result in zip(index.records, results, strict=True):
        if isinstance(result, str):
            problems.append(result)
            continue
        annotation, digest = result
        problems += _missing_ids(record, tally.add(record, annotation))
        if not len(annotation.class_index):
            warnings.append(f"{record.image_path}: nothing is annotated on it; if that is right, it may stay")
        if digest in digests:
            warnings.append(f"{record.image_path} is the same image as {digests[digest]}; remove one")
        digests.setdefault(digest, record.image_path)
    statistics = tally.result()
    absent = [category.name for category in statistics.categories if not category.num_segments]
    if absent and statistics.num_images:
        warnings.append(f"categories without a segment in this split: {', '.join(absent)}")
    return Report(
        problems=tuple(problems),
        warnings=tuple(warnings),
        statistics=statistics,
        suggestions=suggest(statistics, index.kind) if statistics.num_images else (),
        digests=digests,
    )


def compare_splits(reports: Mapping[str, Report], one: str, other: str) -> tuple[str, ...]:
    """A warning for each image that is in both of two splits: scores on it would say nothing."""
    first, second = reports[one].digests, reports[other].digests
    return tuple(
        f"{first[digest]} ({one}) and {path} ({other}) are the same image: remove one"
        for digest, path in second.items()
        if digest in first
    )


def _read_all(records: Sequence[Record]) -> Iterator[tuple[Annotation, bytes] | str]:
    """In the order of the records; only a few more than there are threads are read ahead."""
    threads = num_threads()
    with ThreadPoolExecutor(threads) as pool:
        waiting = iter(records)
        started = [pool.submit(_read, record) for record in islice(waiting, 2 * threads)]
        while started:
            yield started.pop(0).result()
            started += [pool.submit(_read, record) for record in islice(waiting, 1)]


def _read(record: Record) -> tuple[Annotation, bytes] | str:
    """The annotation and a digest of the image file, or what is wrong."""
    try:
        annotation = read_sample(record).annotation
        return annotation, hashlib.sha256(record.image_path.read_bytes()).digest()
    except (ValueError, OSError) as error:
        return str(error)


def _missing_ids(record: Record, areas: NDArray[np.int64]) -> Iterator[str]:
    """A problem if the JSON lists segments that the PNG does not have; `areas` (T) are in pixels."""
    if isinstance(record.source, PanopticSource) and not areas.all():
        ids = [segment.id for segment, area in zip(record.source.segments, areas, strict=True) if not area]
        yield (
            f"{record.source.path} has no pixel of {len(ids)} segments that are listed: ids {ids[:5]}; "
            "remove them from segments_info, or write the PNG anew"
        )
