"""One image from its file to its answer: decode, geometry, engine, encode. Blocks; any thread may, with a bound on what
is decoded at once."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service import answers, hugging_face
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.budget import Budget
from service.engine_link import EngineLink, LinkedSession
from service.image import EncodedImage
from service.instances import Result
from service.segmenter import MAX_BATCH, Segmenter
from service.ticket import Ticket
from service.views import pixels_of, segment_views

_ALL_TILES = 2**62  # the engine makes batches of its own: tiles are handed over as many as there may be at once


@dataclass(frozen=True, kw_only=True)
class CodecLimits:
    """What a codec may take: of one image, and of all at once."""

    max_pixels: int
    max_side: int
    max_inflight_pixels: int
    processors: int  # threads that decode or encode at once


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The body of an answer, and how it came to be: each stage with its start and end, of `time.perf_counter`."""

    content: bytes
    media_type: str
    stages: tuple[tuple[str, float, float], ...]
    image_size: tuple[int, int]  # width, height
    num_segments: int
    batch_size: int


class Codec:
    """The steps of all images of one process."""

    def __init__(self, limits: CodecLimits) -> None:
        self._limits = limits
        self._pixels = Budget(limits.max_inflight_pixels)
        # More threads than processors would only take turns: the first image is answered first.
        self._processors = threading.BoundedSemaphore(limits.processors)

    def answer(
        self,
        data: bytes,
        metadata: ArtifactMetadata,
        links: Sequence[EngineLink],
        wish: Wish,
        ticket: Ticket,
        begin: float,
    ) -> Answered:
        """Answer for one image file, which has waited since `begin`; raises ServiceError."""
        ticket.check()
        file = EncodedImage(data, max_pixels=self._limits.max_pixels, max_side=self._limits.max_side)
        width, height = file.size
        with self._pixels.hold(pixels_of(wish.views, width * height), ticket):
            with self._processors:
                ticket.check()
                admitted = time.perf_counter()
                pixels = file.decode()
                decoded = time.perf_counter()
            session = LinkedSession(links, ticket)
            result = segment_views(
                Segmenter(metadata, session, max_batch_pixels=_ALL_TILES),
                pixels,
                views=wish.views,
                score_threshold=wish.score_threshold,
                overlap_threshold=wish.overlap_threshold,
            )
            taken = decoded + session.timings.queue
            with self._processors:
                ticket.check()
                start = time.perf_counter()
                encoded = _encode(pixels, result, wish, metadata)
                end = time.perf_counter()
                stages = (
                    ("decode", admitted, decoded),
                    ("queue", decoded, taken),
                    ("engine", taken, taken + session.timings.engine),
                    ("encode", start, end),
                )
                if not isinstance(encoded, bytes):
                    seconds = {name: last - first for name, first, last in stages}
                    seconds["queue"] += admitted - begin
                    seconds["total"] = end - begin
                    encoded["timing_ms"] = {name: round(1000 * value, 2) for name, value in seconds.items()}
                    encoded = orjson.dumps(encoded, option=orjson.OPT_SERIALIZE_NUMPY)
        return Answered(
            content=encoded,
            media_type="image/png" if wish.picture_only else "application/json",
            stages=stages,
            image_size=file.size,
            num_segments=len(result.segments),
            batch_size=session.timings.batch_size,
        )


def _encode(
    pixels: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata
) -> bytes | dict[str, Any]:
    """A body as it is sent, or the JSON answer but for its timing."""
    shown = answers.view(result, wish, metadata)
    if wish.picture_only:
        return answers.picture(pixels, shown, wish, metadata)
    if wish.format == "huggingface":
        return hugging_face.encode(shown, metadata, with_scores=wish.task != "semantic" or metadata.confidence)
    return answers.document(pixels, shown, wish, metadata)


def threads_for(max_batch: int, num_replicas: int, num_codecs: int, processors: int) -> int:
    """Images of one model that one of several codecs has at once: together they fill two batches of each engine."""
    return -(-2 * max(max_batch, MAX_BATCH) * num_replicas // num_codecs) + processors
