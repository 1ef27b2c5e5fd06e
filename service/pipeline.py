"""One request's images through the codec processes, beside the event loop; metrics and traces of it."""

import asyncio
import time
from dataclasses import dataclass

from service import tracing
from service.answers import Wish
from service.codec import Answered
from service.codecs import Codecs
from service.errors import ServiceError
from service.metrics import Metrics, Stage
from service.model import Model
from service.session import available_cpus
from service.threads import Threads
from service.ticket import Ticket

_STAGES: tuple[Stage, ...] = ("decode", "queue", "engine", "encode")


@dataclass(frozen=True)
class Payload:
    """The body of an answer."""

    content: bytes
    media_type: str


class Pipeline:
    """What happens to each image; `threads` are for bodies."""

    def __init__(self, codecs: Codecs, metrics: Metrics) -> None:
        self.threads = Threads(available_cpus(), "body")
        self._codecs = codecs
        self._metrics = metrics

    async def answer(self, data: bytes, model: Model, wish: Wish, ticket: Ticket) -> Payload:
        """Answer for one image file; raises ServiceError."""
        begin = time.perf_counter()
        outcome = "internal-error"
        try:
            answered = await self._codecs.answer(data, model.number, wish, ticket)
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
        self._record(answered, model, begin)
        return Payload(answered.content, answered.media_type)

    def close(self) -> None:
        """Let running work finish."""
        self.threads.close()

    def _record(self, answered: Answered, model: Model, begin: float) -> None:
        """Tell metrics and traces of the stages; an image also waits before it is decoded."""
        times = {name: (start, end) for name, start, end in answered.stages}
        waited = times["decode"][0] - begin
        for stage in _STAGES:
            start, end = times[stage]
            seconds = end - start + (waited if stage == "queue" else 0.0)
            self._metrics.stage(model=model.metadata.name, stage=stage, seconds=seconds)
        if tracing.is_on():
            width, height = answered.image_size
            about: dict[str, tracing.Attribute] = {
                "model": model.metadata.name,
                "version": model.metadata.version,
                "variant": model.replicas.variant.name,
                "batch_size": answered.batch_size,
                "image_width": width,
                "image_height": height,
                "segments": answered.num_segments,
            }
            for stage in _STAGES:
                tracing.record(stage, *times[stage], about)
