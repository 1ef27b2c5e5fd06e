"""The engines that run one artifact: one for each GPU, or as many as the settings say."""

import threading
import time
from collections.abc import Callable

from service.artifact import Variant
from service.engine import Engine, EngineOptions
from service.engine_link import EngineLink, LinkedSession
from service.engine_worker import Opener
from service.errors import ServiceError
from service.gpu import count_gpus
from service.observer import Observer
from service.repository import StoredArtifact
from service.session import available_cpus
from service.settings import Settings
from service.ticket import Ticket
from service.variants import open_session, runnable_variants, uses_gpu

_POLL_S = 0.02
_GPU_BATCH_PIXELS = 2**22  # eight canvases of 724x724
_CPU_BATCH_PIXELS = 2**16  # one of 256x256 keeps the processors busy; more take memory and save no time


class Replicas:
    """Engines of one artifact.

    Args:
        stored: the artifact.
        settings: of the server.
        opener: what engine processes load a variant with; a function of a module.
        observer: is told of each run.
        on_ready: called when a process can answer, as `Engine` has it.

    Raises:
        ArtifactError: no variant of it can run here.
    """

    def __init__(
        self,
        stored: StoredArtifact,
        settings: Settings,
        *,
        opener: Opener = open_session,
        observer: Observer | None = None,
        on_ready: Callable[[Engine], None] = lambda engine: None,
    ) -> None:
        self.label = f"{stored.metadata.name}/{stored.metadata.version}"
        options = settings.of_model(stored.metadata.name)
        variants = runnable_variants(stored.metadata, options.variant)
        gpus: list[int | None] = list(range(count_gpus())) if uses_gpu(variants[0]) else []
        places = gpus or [None] * (options.replicas or 1)
        self.max_batch = options.max_batch or settings.max_batch
        self.engines = [
            Engine(
                stored.metadata,
                stored.folder,
                variants,
                EngineOptions(
                    threads=options.engine_threads or max(1, available_cpus() // len(places)),
                    timeout_s=settings.engine_timeout_s,
                    max_batch=self.max_batch,
                    max_batch_pixels=options.max_batch_pixels or (_GPU_BATCH_PIXELS if gpus else _CPU_BATCH_PIXELS),
                    batch_delay_s=(options.batch_delay_ms or 0.0) / 1000,
                    memory_bytes=options.memory_mb * 2**20 if options.memory_mb else None,
                    gpu=gpu,
                ),
                opener=opener,
                observer=observer,
                on_ready=on_ready,
            )
            for gpu in places
        ]
        self._links: dict[Engine, EngineLink] = {}
        self._linking = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether an engine can answer."""
        return any(engine.is_ready for engine in self.engines)

    @property
    def state(self) -> str:
        """What the engines do: of one that is not ready, if there is one."""
        return next((engine.state for engine in self.engines if not engine.is_ready), "is ready")

    @property
    def variant(self) -> Variant:
        """The one that runs: the first engine's, which may be another than its neighbour's only for a while."""
        return self.engines[0].variant

    @property
    def seconds_per_canvas(self) -> float:
        """Of all engines together, as far as the last runs tell; 0 before the first."""
        ready = [engine.seconds_per_canvas for engine in self.engines if engine.is_ready]
        return max(ready, default=0.0) / max(1, len(ready))

    def start(self) -> None:
        """Start the engine processes without waiting for them."""
        for engine in self.engines:
            engine.start()

    def wait_ready(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Wait until all engines can answer; raises ServiceError when one cannot start, or it is no longer wanted."""
        while not all(engine.is_ready for engine in self.engines):
            for engine in self.engines:
                if engine.state.startswith("did not start"):
                    raise ServiceError(f"{self.label} {engine.state}")
            if not is_wanted():
                raise ServiceError(f"{self.label} is no longer wanted")
            time.sleep(_POLL_S)

    def session(self, ticket: Ticket) -> LinkedSession:
        """All engines as a session of this process, for one image; raises EngineDownError if none is ready."""
        with self._linking:
            for engine in self.engines:
                link = self._links.get(engine)
                if engine.is_ready and (link is None or not link.is_up):
                    if link is not None:
                        self._links.pop(engine).close()
                    self._links[engine] = engine.connect()
            return LinkedSession(list(self._links.values()), ticket)

    def close(self) -> None:
        """End the engine processes."""
        for link in self._links.values():
            link.close()
        for engine in self.engines:
            engine.close()
