"""From one image's file to what is kept of it: the same steps, whoever runs them."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from batch.durable import NotWrittenError
from batch.items import Item, read
from batch.sinks import Sink
from batch.slide import SlideWork
from batch.slide_file import SlideFile, open_slide
from service import answers
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.budget import Budget
from service.errors import EngineDownError, InvalidParameterError, ServiceError
from service.geometry import Plan
from service.image import EncodedImage
from service.join import TileResult
from service.replicas import Replicas
from service.segmenter import Segmenter
from service.session import Session, available_cpus
from service.settings import Settings
from service.ticket import Ticket
from service.views import pixels_of, segment_views

_ATTEMPTS = 3  # at an image, where the engine process ends: another image of its batch may have been the cause
_PAUSE_S = 1.0  # before another: an engine whose process has just ended counts as ready until that is noticed
_LONGEST_S = 24 * 3600.0  # nobody waits for an answer; a run that hangs is ended by the engine's own limit
_LONGEST_SLIDE_S = 30 * _LONGEST_S

T = TypeVar("T")


class EngineLostError(ServiceError):
    """The engine cannot be started again: no image's fault, and the end of the run."""


class StoppedError(ServiceError):
    """The job is stopped: no image's fault, either."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is kept of the image `index`: a line of the journal, and its picture, if the format has one.

    `slide`: the folder where the files of a slide are, which are to be taken from there.
    """

    index: int
    record: dict[str, Any]
    picture: bytes | None = None
    slide: Path | None = None

    @property
    def is_failed(self) -> bool:
        """Whether the image could not be segmented."""
        return "error" in self.record


@dataclass(frozen=True, kw_only=True)
class SlideOptions:
    """When an image is a slide, and where its work goes on.

    `min_pixels`: images of more are slides, and so are those of longer sides than the settings allow. `work`: folder of
    what is begun. `told`: is told a slide's name, how many of its rows of tiles are done, and how many there are.
    """

    min_pixels: int
    work: Path
    told: Callable[[str, int, int], None] = lambda name, done, total: None


class Steps:
    """The steps with one model, for any thread.

    Args:
        replicas: started.
        metadata: of their artifact.
        wish: what is asked of each image.
        sink: the format that is written.
        settings: limits on images.
        slides: of images that are too large to be held.
    """

    def __init__(
        self,
        replicas: Replicas,
        metadata: ArtifactMetadata,
        wish: Wish,
        sink: Sink,
        settings: Settings,
        slides: SlideOptions,
    ) -> None:
        self._replicas = replicas
        self._metadata = metadata
        self._wish = wish
        self._sink = sink
        self._max_pixels, self._max_side = settings.max_pixels, settings.max_side
        self._pixels = Budget(settings.max_inflight_pixels)
        self._processors = threading.BoundedSemaphore(available_cpus())
        self._slides = slides
        self._slide_places = threading.BoundedSemaphore(len(replicas.engines))  # each keeps an engine busy alone
        self._lock = threading.Lock()  # of the tickets of slides that are worked at
        self._tickets: set[Ticket] = set()
        self._is_stopped = False

    def __call__(self, index: int, item: Item) -> Outcome:
        """Read, decode, segment, encode; a bad image's outcome is its error.

        Raises:
            EngineLostError, StoppedError: as they say.
            NotWrittenError: the work at a slide cannot be put aside.
        """
        try:
            with self._open_slide(item) as slide:
                if slide is not None:
                    return self._segment_slide(index, item, slide)
            return self._segment(index, item)
        except (EngineLostError, StoppedError, NotWrittenError):
            raise
        except ServiceError as error:
            kind, reason = error.type, error.detail
        except OSError as error:
            kind, reason = "unreadable", os.strerror(error.errno) if error.errno else str(error)
        except Exception as error:  # of a remote file system, or of a file that nobody has thought of
            kind, reason = "unreadable", f"{type(error).__name__}: {error}"
        shutil.rmtree(self._slide_folder(index), ignore_errors=True)
        return Outcome(index=index, record={"error": {"type": kind, "reason": reason}})

    def is_slide(self, item: Item) -> bool:
        """Whether the image is a slide; not if it cannot be read, which a call tells."""
        try:
            with self._open_slide(item) as slide:
                return slide is not None
        except Exception:
            return False

    def stop(self) -> None:
        """End the work at a slide, which may be long: images that are begun are finished."""
        with self._lock:
            self._is_stopped = True
            for ticket in self._tickets:
                ticket.cancel(StoppedError("the job is stopped"))

    def _open_slide(self, item: Item) -> AbstractContextManager[SlideFile | None]:
        return open_slide(item, max_pixels=self._slides.min_pixels, max_side=self._max_side)

    def _segment(self, index: int, item: Item) -> Outcome:
        ticket = Ticket(_LONGEST_S)
        file = EncodedImage(read(item), max_pixels=self._max_pixels, max_side=self._max_side)
        width, height = file.size
        with self._pixels.hold(pixels_of(self._wish.views, width * height), ticket):
            with self._processors:
                pixels = file.decode()
            wish = self._wish
            result = self._ask(
                lambda segmenter: segment_views(
                    segmenter,
                    pixels,
                    views=wish.views,
                    score_threshold=wish.score_threshold,
                    overlap_threshold=wish.overlap_threshold,
                ),
                ticket,
            )
            with self._processors:
                metadata = self._metadata
                shown = answers.view(result, wish, metadata)
                record = {"height": pixels.shape[0], "width": pixels.shape[1], "warnings": list(result.warnings)}
                record |= self._sink.describe(pixels, shown, wish, metadata)
                picture = self._sink.draw(pixels, shown, metadata) if self._sink.draw is not None else None
        return Outcome(index=index, record=record, picture=picture)

    def _segment_slide(self, index: int, item: Item, slide: SlideFile) -> Outcome:
        if self._wish.views > 1:
            raise InvalidParameterError(f"views is {self._wish.views}; legal for a slide: 1")
        folder = self._slide_folder(index)
        with self._slide_places, self._slide_ticket() as ticket:

            def read_tiles(pixels: NDArray[np.uint8], plan: Plan, values: Mapping[str, float]) -> list[TileResult]:
                return self._ask(lambda segmenter: segmenter.read_tiles(pixels, plan, values), ticket)

            work = SlideWork(
                slide=slide,
                metadata=self._metadata,
                wish=self._wish,
                work=folder,
                ticket=ticket,
                told=lambda done, total: self._slides.told(item.name, done, total),
            )
            record = work.run(read_tiles, stop=lambda: ticket.cancel(StoppedError("another row of tiles has failed")))
        return Outcome(index=index, record=record, slide=folder)

    def _slide_folder(self, index: int) -> Path:
        """Where the work at a slide is put aside."""
        return self._slides.work / str(index)

    @contextmanager
    def _slide_ticket(self) -> Iterator[Ticket]:
        """A ticket that `stop` cancels."""
        ticket = Ticket(_LONGEST_SLIDE_S)
        with self._lock:
            if self._is_stopped:
                raise StoppedError("the job is stopped")
            self._tickets.add(ticket)
        try:
            yield ticket
        finally:
            with self._lock:
                self._tickets.remove(ticket)

    def _ask(self, function: Callable[[Segmenter], T], ticket: Ticket) -> T:
        """What a function makes of the model, with another engine process if one ends."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                session: Session = self._replicas.session(ticket)
                # The engine makes batches of its own: tiles are handed over as many as there are.
                return function(Segmenter(self._metadata, session, max_batch_pixels=sys.maxsize))
            except EngineDownError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S)
                try:
                    self._replicas.wait_ready()
                except ServiceError as error:
                    raise EngineLostError(error.detail) from error
        raise AssertionError
