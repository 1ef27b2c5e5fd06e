"""What all routes share."""

import logging
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.admission import Admission
from service.codec import CodecLimits
from service.codecs import Codecs
from service.engine_worker import Opener
from service.fetch import Fetcher
from service.metrics import Metrics
from service.model import Model
from service.models import Models
from service.observer import Observer, Run
from service.pipeline import Pipeline
from service.repository import StoredArtifact
from service.session import available_cpus
from service.settings import Settings
from service.threads import Threads
from service.variants import open_session

logger = logging.getLogger("knet.models")

_MOST_CODECS = 8


class Context:
    """Settings, models, admission, pipeline and metrics of one server; `control` is the thread that loads models."""

    def __init__(self, settings: Settings, opener: Opener = open_session) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._opener = opener
        self.codecs = Codecs(*_codec_options(settings))
        self.models = Models(settings, self._make_model)
        self.admission = Admission(
            settings.max_queue, self.metrics, max_images_per_client=settings.max_queue_per_client
        )
        self.pipeline = Pipeline(self.codecs, self.metrics)
        self.fetcher = Fetcher(settings)
        self.control = Threads(1, "control")
        self._watch()
        if unknown := settings.models.keys() - self.models.names():
            logger.warning("settings of models that the repository has not: %s", ", ".join(sorted(unknown)))

    def start(self) -> None:
        """Start all processes without waiting for them."""
        self.codecs.start()
        self.models.start()

    def close(self) -> None:
        """End everything that was started."""
        self.codecs.close()  # first, as a model that comes or goes tells them
        self.models.close()
        self.control.close()
        self.pipeline.close()

    def _make_model(self, stored: StoredArtifact) -> Model:
        observer = _Counter(self.metrics, stored.metadata.name)
        return Model(stored, self.settings, codecs=self.codecs, opener=self._opener, observer=observer)

    def not_ready(self) -> list[str]:
        """What keeps the server from answering now, with its state; empty when it is ready."""
        if not self.admission.is_ready:
            return ["this server is about to stop"]
        codecs = [] if self.codecs.num_ready else ["the processes that decode images are starting"]
        return codecs + self.models.not_ready()

    def _watch(self) -> None:
        """Let the metrics read what changes by itself; versions of a model are taken together."""
        metrics, models = self.metrics, self.models
        metrics.loaded(lambda: [(m.metadata.name, m.metadata.version, m.replicas.variant.name) for m in models.all()])
        metrics.watch("in_flight", lambda: models.sums(lambda model: model.num_images))
        metrics.watch("queued", lambda: models.sums_of_engines(lambda engine: engine.num_waiting))
        metrics.watch("ready_engines", lambda: models.sums_of_engines(lambda engine: engine.is_ready))
        metrics.watch("engine_memory_bytes", lambda: models.sums_of_engines(lambda engine: engine.memory_bytes()))


def _codec_options(settings: Settings) -> tuple[int, CodecLimits]:
    """How many codec processes, and what each may take."""
    processors = available_cpus()
    count = settings.codec_processes or min(processors, _MOST_CODECS)
    limits = CodecLimits(
        max_pixels=settings.max_pixels,
        max_side=settings.max_side,
        max_inflight_pixels=max(1, settings.max_inflight_pixels // count),
        processors=max(1, processors // count),
    )
    return count, limits


@dataclass(frozen=True)
class _Counter(Observer):
    """Counts an engine's runs and restarts under its model's name."""

    metrics: Metrics
    name: str

    def ran(self, run: Run) -> None:
        self.metrics.batch(model=self.name, size=run.size, seconds=run.seconds)

    def restarted(self) -> None:
        self.metrics.restarted(model=self.name)


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]
