"""One request's images through decode, engine and encode, beside the event loop and with bounds on what waits."""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service import answers, hugging_face, tracing
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.budget import Budget
from service.errors import ServiceError
from service.image import EncodedImage
from service.instances import Result
from service.metrics import Metrics, Stage
from service.model import Model
from service.session import available_cpus
from service.settings import Settings
from service.threads import Threads
from service.ticket import Ticket


@dataclass(frozen=True)
class Payload:
    """The body of an answer."""

    content: bytes
    media_type: str


class Pipeline:
    """The steps of all requests; images that are decoded at once have at most `settings.max_inflight_pixels`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self.threads = Threads(available_cpus(), "codec")  # what is not one model's affair
        self._max_pixels = settings.max_pixels
        self._max_side = settings.max_side
        self._pixels = Budget(settings.max_inflight_pixels)
        # More threads than processors would only take turns: the first image is answered first.
        self._processors = threading.BoundedSemaphore(available_cpus())

    async def answer(self, data: bytes, model: Model, wish: Wish, ticket: Ticket) -> Payload:
        """Answer for one image file; raises ServiceError."""
        begin = time.perf_counter()
        outcome = "internal-error"
        try:
            payload = await model.threads.run(self._answer, data, model, wish, ticket, begin)
            outcome = "ok"
        except ServiceError as error:
            outcome = error.type
            raise
        except asyncio.CancelledError:  # by whoever attends to the request
            outcome = ticket.error.type if ticket.error is not None else outcome
            raise
        finally:
            seconds = time.perf_counter() - begin
            self._metrics.answered(model=model.metadata.name, task=wish.task, outcome=outcome, seconds=seconds)
        return payload

    def _answer(self, data: bytes, model: Model, wish: Wish, ticket: Ticket, begin: float) -> Payload:
        ticket.check()
        file = EncodedImage(data, max_pixels=self._max_pixels, max_side=self._max_side)
        width, height = file.size
        with self._pixels.hold(width * height, ticket):
            with self._processors:
                ticket.check()
                admitted = time.perf_counter()
                with tracing.span("decode", image_width=width, image_height=height):
                    pixels = file.decode()
                decoded = time.perf_counter()
            result, timings = model.segment(
                pixels, ticket, score_threshold=wish.score_threshold, overlap_threshold=wish.overlap_threshold
            )
            taken = decoded + timings.queue
            about: dict[str, tracing.Attribute] = {
                "model": model.metadata.name,
                "version": model.metadata.version,
                "variant": model.variant.name,
            }
            tracing.record("queue", decoded, taken, about)
            tracing.record("engine", taken, taken + timings.engine, about | {"batch_size": timings.batch_size})
            with self._processors:
                ticket.check()
                start = time.perf_counter()
                with tracing.span("encode", segments=len(result.segments)):
                    encoded = _encode(pixels, result, wish, model.metadata)
                end = time.perf_counter()
                stages: tuple[tuple[Stage, float], ...] = (
                    ("decode", decoded - admitted),
                    ("queue", admitted - begin + timings.queue),
                    ("engine", timings.engine),
                    ("encode", end - start),
                )
                for stage, seconds in stages:
                    self._metrics.stage(model=model.metadata.name, stage=stage, seconds=seconds)
                if isinstance(encoded, Payload):
                    return encoded
                timing = (*stages, ("total", end - begin))
                encoded["timing_ms"] = {name: round(1000 * seconds, 2) for name, seconds in timing}
                return Payload(orjson.dumps(encoded, option=orjson.OPT_SERIALIZE_NUMPY), "application/json")

    def close(self) -> None:
        """Let running work finish."""
        self.threads.close()


def _encode(
    pixels: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata
) -> Payload | dict[str, Any]:
    """A picture as it is sent, or the JSON answer but for its timing."""
    shown = answers.view(result, wish, metadata)
    if wish.picture_only:
        return Payload(answers.picture(pixels, shown, wish, metadata), "image/png")
    if wish.format == "huggingface":
        content = hugging_face.encode(shown, metadata, with_scores=wish.task != "semantic" or metadata.confidence)
        return Payload(content, "application/json")
    return answers.document(pixels, shown, wish, metadata)
