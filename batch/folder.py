"""The folder of a job: what it was asked, the list of its images, what is done, and at the end the files of all.

While the job runs, `OUT/.job` has `items.jsonl`, `request.json` and `journal.jsonl`, in `slides` what is begun of
slides, and `lock`, which the process holds that works at it. At the end it is gone, and `OUT/job.json` tells what was
made. Pictures are written before the image's line in the journal.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import orjson

from batch.durable import replacing, write_bytes
from batch.items import Item
from batch.journal import Journal
from batch.lock import hold
from batch.sinks import Sink
from batch.slide import LABELS, TABLE
from batch.steps import Outcome
from service.artifact import ArtifactMetadata

_REPORT = "job.json"


class JobFolder:
    """An open job that is not finished; see `open_folder`."""

    def __init__(self, out: Path, request: dict[str, Any], sink: Sink, lock: IO[bytes]) -> None:
        self._lock = lock
        self._out = out
        self._work = out / ".job"
        self._request = request
        self._sink = sink
        self.num_items: int = request["images"]
        self.journal = Journal(self._work / "journal.jsonl", self.num_items)

    @property
    def slide_work(self) -> Path:
        """Folder of what is begun of slides."""
        return self._work / "slides"

    @property
    def num_done(self) -> int:
        """Images that are done, those that failed among them."""
        return self.journal.num_done

    def pending(self) -> Iterator[tuple[int, Item]]:
        """The images that are not done, in the order of the job, with their numbers."""
        return ((index, item) for index, item in enumerate(self._items()) if not self.journal.is_done(index))

    def keep(self, item: Item, outcome: Outcome) -> None:
        """Write what is kept of an image; for any thread."""
        if outcome.picture is not None:
            write_bytes(self._out / self._sink.folder / f"{item.stem}.png", outcome.picture)
        if outcome.slide is not None:
            target = self._out / "slides" / item.stem
            target.parent.mkdir(parents=True, exist_ok=True)
            for name in (LABELS, TABLE):
                # Files of a slide have the suffix of what they are; a name may have dots of its own.
                (outcome.slide / name).replace(target.with_name(target.name + PurePosixPath(name).suffix))
        self.journal.append(outcome.index, outcome.record)
        if outcome.slide is not None:
            shutil.rmtree(outcome.slide)

    def finish(self, metadata: ArtifactMetadata) -> dict[str, Any]:
        """Write the files about all images and end the job; gives what `job.json` says."""
        self._sink.finish(self._out, self._images, metadata)
        failed = self._write_lines(
            "failed.jsonl",
            (
                {"file_name": one["name"], "url": one["url"], **one["error"]}
                for one in self._records()
                if "error" in one
            ),
        )
        warned = self._write_lines(
            "warnings.jsonl",
            ({"file_name": one["name"], "warnings": one["warnings"]} for one in self._records() if one.get("warnings")),
        )
        slides = self._write_lines(
            "slides.jsonl",
            (
                {name: one[name] for name in ("id", "name", "stem", "height", "width")} | one["slide"]
                for one in self._records()
                if "slide" in one
            ),
        )
        report = {**self._request, "slides": slides, "failed": failed, "warned": warned}
        write_bytes(self._out / _REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
        self.close()
        shutil.rmtree(self._work, ignore_errors=True)  # what is left is another run's to remove
        return report

    def close(self) -> None:
        """Leave the job as it is, for another run to go on with it."""
        self.journal.close()
        self._lock.close()

    def _items(self) -> Iterator[Item]:
        with (self._work / "items.jsonl").open("rb") as file:
            for line in file:
                yield Item(**orjson.loads(line))

    def _records(self) -> Iterator[dict[str, Any]]:
        """What is kept of each image, with its name."""
        for item, (_, record) in zip(self._items(), self.journal.records(), strict=True):
            yield {"id": item.id, "name": item.name, "stem": item.stem, "url": item.url, **record}

    def _images(self) -> Iterator[dict[str, Any]]:
        """What is kept of the images that did not fail, but for slides."""
        return (one for one in self._records() if "error" not in one and "slide" not in one)

    def _write_lines(self, name: str, entries: Iterator[dict[str, Any]]) -> int:
        count = 0
        with replacing(self._out / name) as file:
            for count, entry in enumerate(entries, start=1):  # noqa: B007
                file.write(orjson.dumps(entry) + b"\n")
        return count


def open_folder(out: Path, request: dict[str, Any], items: Iterable[Item], sink: Sink) -> JobFolder | None:
    """Begin a job, or go on with it; None where it is finished.

    Args:
        out: new or empty, or the folder of the same request.
        request: what decides about the output, plain data.
        items: listed only for a new job.
        sink: the format.

    Raises:
        ValueError: the folder has something else, or another process works at it.
    """
    work = out / ".job"
    if (out / _REPORT).exists():
        _check_same(out, request, orjson.loads((out / _REPORT).read_bytes()))
        shutil.rmtree(work, ignore_errors=True)  # a kill at the very end may have left some of it
        return None
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty, and no job of `knet batch` is in it: name another folder")
    work.mkdir(parents=True, exist_ok=True)
    lock = hold(work / "lock")  # before the list is made, which two processes would write into one another
    if lock is None:
        raise ValueError(f"another process works at the job in {out}")
    try:
        if not (work / "request.json").exists():
            with replacing(work / "items.jsonl") as file:
                count = 0
                for count, item in enumerate(items, start=1):  # noqa: B007
                    file.write(orjson.dumps(item.to_dict()) + b"\n")
            write_bytes(work / "request.json", orjson.dumps({**request, "images": count}))
        stored = orjson.loads((work / "request.json").read_bytes())
        _check_same(out, request, stored)
        return JobFolder(out, stored, sink, lock)
    except BaseException:
        lock.close()
        raise


def _check_same(out: Path, request: dict[str, Any], stored: dict[str, Any]) -> None:
    for name, value in request.items():
        if stored.get(name) != value:
            raise ValueError(
                f"the job in {out} was begun with {name} {stored.get(name)!r}, not {value!r}; "
                "go on with the same, or name another folder"
            )
