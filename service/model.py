"""One version of a model, loaded: its engines, and the number by which codecs know it."""

import threading
import time
from collections.abc import Callable

from service.answers import tasks_of
from service.artifact import Variant
from service.codec import threads_for
from service.codecs import Codecs
from service.engine import Engine, EngineOptions
from service.engine_worker import Opener
from service.errors import EngineDownError, ServiceError
from service.gpu import count_gpus
from service.observer import Observer
from service.repository import StoredArtifact
from service.schemas import ModelVersion
from service.session import available_cpus
from service.settings import Settings
from service.variants import open_session, runnable_variants, uses_gpu

_POLL_S = 0.02
_GPU_BATCH_PIXELS = 2**22  # eight canvases of 724x724
_CPU_BATCH_PIXELS = 2**16  # one of 256x256 keeps the processors busy; more take memory and save no time


class Model:
    """One version, loaded, with one engine for each GPU, or as many as the settings say.

    Raises:
        ArtifactError: no variant of it can run here.
    """

    def __init__(
        self,
        stored: StoredArtifact,
        settings: Settings,
        *,
        codecs: Codecs,
        opener: Opener = open_session,
        observer: Observer | None = None,
    ) -> None:
        self.metadata = stored.metadata
        self.digest = stored.digest
        self.label = f"{stored.metadata.name}/{stored.metadata.version}"
        options = settings.of_model(stored.metadata.name)
        variants = runnable_variants(stored.metadata, options.variant)
        gpus: list[int | None] = list(range(count_gpus())) if uses_gpu(variants[0]) else []
        places = gpus or [None] * (options.replicas or 1)
        threads = options.engine_threads or max(1, available_cpus() // len(places))
        max_batch = options.max_batch or settings.max_batch
        self._codecs = codecs
        threads_each = threads_for(max_batch, len(places), codecs.count, available_cpus())
        self.number = codecs.add_model(stored.metadata, threads=threads_each)
        self.engines = [
            Engine(
                stored.metadata,
                stored.folder,
                variants,
                EngineOptions(
                    threads=threads,
                    timeout_s=settings.engine_timeout_s,
                    max_batch=max_batch,
                    max_batch_pixels=options.max_batch_pixels or (_GPU_BATCH_PIXELS if gpus else _CPU_BATCH_PIXELS),
                    batch_delay_s=(options.batch_delay_ms or 0.0) / 1000,
                    memory_bytes=options.memory_mb * 2**20 if options.memory_mb else None,
                    gpu=gpu,
                ),
                opener=opener,
                observer=observer,
                on_ready=lambda engine: codecs.add_engine(self.number, engine),
            )
            for gpu in places
        ]
        self.num_images = 0  # accepted and not answered, for the event loop alone
        self._lock = threading.Lock()
        self._num_leases = 0
        self._is_retired = False

    @property
    def is_ready(self) -> bool:
        """Whether an engine of it can answer."""
        return any(engine.is_ready for engine in self.engines)

    @property
    def state(self) -> str:
        """What its engines do: of one that is not ready, if there is one."""
        return next((engine.state for engine in self.engines if not engine.is_ready), "is ready")

    @property
    def variant(self) -> Variant:
        """The one that runs: the first engine's, which may be another than its neighbour's only for a while."""
        return self.engines[0].variant

    @property
    def expected_wait_s(self) -> float:
        """Seconds that a new image waits for the engine, as far as the last runs tell."""
        ready = [engine.seconds_per_canvas for engine in self.engines if engine.is_ready]
        return self.num_images * max(ready, default=0.0) / max(1, len(ready))

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

    def lease(self) -> bool:
        """Keep `retire` from ending the engines until `release`; False when it is too late for that."""
        with self._lock:
            if self._is_retired:
                return False
            self._num_leases += 1
            return True

    def release(self) -> None:
        """End a lease."""
        with self._lock:
            self._num_leases -= 1

    def retire(self, timeout_s: float) -> None:
        """End the engines once nobody has a lease, at the latest after so many seconds; blocks."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._is_retired = not self._num_leases or time.monotonic() > deadline
            if self._is_retired:
                return self.close()
            time.sleep(_POLL_S)

    def close(self) -> None:
        """End the engine processes."""
        self._codecs.remove_model(self.number)
        for engine in self.engines:
            engine.close()

    def describe(self) -> ModelVersion:
        """What the API tells about this version."""
        metadata = self.metadata
        return ModelVersion(
            version=metadata.version,
            ready=self.is_ready,
            state=self.state,
            kind=metadata.kind,
            tasks=tasks_of(metadata),
            categories=metadata.categories,
            geometry=metadata.geometry,
            thresholds=metadata.thresholds,
            output_stride=metadata.output_stride,
            merge=metadata.merge,
            mask_quality=metadata.mask_quality,
            most_things_per_tile=metadata.num_thing_slots if metadata.kind == "panoptic" else None,
            variants=metadata.variants,
            running=self.variant.name,
        )


def check_ready(model: Model) -> None:
    """Raise EngineDownError unless an engine of the model can answer."""
    if not model.is_ready:
        raise EngineDownError(f"model {model.label} {model.state}")
