"""From one image's file to what is kept of it: the same steps, whoever runs them."""

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.items import Item, read
from batch.sinks import Sink
from service import answers
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.budget import Budget
from service.errors import EngineDownError, ServiceError
from service.image import EncodedImage
from service.instances import Result
from service.replicas import Replicas
from service.segmenter import Segmenter
from service.session import available_cpus
from service.settings import Settings
from service.ticket import Ticket

_ATTEMPTS = 3  # at an image, where the engine process ends: another image of its batch may have been the cause
_PAUSE_S = 1.0  # before another: an engine whose process has just ended counts as ready until that is noticed
_LONGEST_S = 24 * 3600.0  # nobody waits for an answer; a run that hangs is ended by the engine's own limit


class EngineLostError(ServiceError):
    """The engine cannot be started again: no image's fault, and the end of the run."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is kept of the image `index`: a line of the journal, and its picture, if the format has one."""

    index: int
    record: dict[str, Any]
    picture: bytes | None = None

    @property
    def is_failed(self) -> bool:
        """Whether the image could not be segmented."""
        return "error" in self.record


class Steps:
    """The steps with one model, for any thread.

    Args:
        replicas: started.
        metadata: of their artifact.
        wish: what is asked of each image.
        sink: the format that is written.
        settings: limits on images.
    """

    def __init__(
        self, replicas: Replicas, metadata: ArtifactMetadata, wish: Wish, sink: Sink, settings: Settings
    ) -> None:
        self._replicas = replicas
        self._metadata = metadata
        self._wish = wish
        self._sink = sink
        self._max_pixels, self._max_side = settings.max_pixels, settings.max_side
        self._pixels = Budget(settings.max_inflight_pixels)
        self._processors = threading.BoundedSemaphore(available_cpus())

    def __call__(self, index: int, item: Item) -> Outcome:
        """Read, decode, segment, encode; a bad image's outcome is its error. Raises EngineLostError."""
        try:
            return self._segment(index, item)
        except EngineLostError:
            raise
        except ServiceError as error:
            return _failed(index, error.type, error.detail)
        except OSError as error:
            return _failed(index, "unreadable", os.strerror(error.errno) if error.errno else str(error))
        except Exception as error:  # of a remote file system, or of a file that nobody has thought of
            return _failed(index, "unreadable", f"{type(error).__name__}: {error}")

    def _segment(self, index: int, item: Item) -> Outcome:
        ticket = Ticket(_LONGEST_S)
        file = EncodedImage(read(item), max_pixels=self._max_pixels, max_side=self._max_side)
        width, height = file.size
        with self._pixels.hold(width * height, ticket):
            with self._processors:
                pixels = file.decode()
            result = self._ask(pixels, ticket)
            with self._processors:
                metadata = self._metadata
                shown = answers.view(result, self._wish, metadata)
                record = {"height": pixels.shape[0], "width": pixels.shape[1], "warnings": list(result.warnings)}
                record |= self._sink.describe(pixels, shown, self._wish, metadata)
                picture = self._sink.draw(pixels, shown, metadata) if self._sink.draw is not None else None
        return Outcome(index=index, record=record, picture=picture)

    def _ask(self, pixels: NDArray[np.uint8], ticket: Ticket) -> Result:
        """The model's result, from another engine process if one ends."""
        wish = self._wish
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                session = self._replicas.session(ticket)
                # The engine makes batches of its own: tiles are handed over as many as there are.
                return Segmenter(self._metadata, session, max_batch_pixels=sys.maxsize).segment(
                    pixels, score_threshold=wish.score_threshold, overlap_threshold=wish.overlap_threshold
                )
            except EngineDownError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S)
                try:
                    self._replicas.wait_ready()
                except ServiceError as error:
                    raise EngineLostError(error.detail) from error
        raise AssertionError


def _failed(index: int, kind: str, reason: str) -> Outcome:
    return Outcome(index=index, record={"error": {"type": kind, "reason": reason}})
