"""One version of a model, loaded: its engines, and the threads that work for its images."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.answers import tasks_of
from service.artifact import Variant
from service.engine import Engine, EngineOptions
from service.engine_worker import Opener
from service.errors import EngineDownError, ServiceError
from service.gpu import count_gpus
from service.instances import Result
from service.observer import Observer, Timings
from service.repository import StoredArtifact
from service.schemas import ModelVersion
from service.segmenter import Segmenter
from service.session import available_cpus
from service.settings import Settings
from service.threads import Threads
from service.ticket import Ticket
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
            )
            for gpu in places
        ]
        # As many images as fill two batches of each engine, while the processors decode and encode others.
        self.threads = Threads(2 * max_batch * len(places) + available_cpus(), f"feed {self.label}")
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
        ready = [engine.expected_wait_s for engine in self.engines if engine.is_ready]
        return min(ready, default=0.0)

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

    def segment(
        self,
        image: NDArray[np.uint8],
        ticket: Ticket,
        *,
        score_threshold: float | None = None,
        overlap_threshold: float | None = None,
    ) -> tuple[Result, Timings]:
        """Segment one image (H, W, 3); blocks. Raises ServiceError."""
        session = _TicketSession(self.engines, ticket)
        # The engine makes batches of its own: tiles are handed over as many as there are.
        result = Segmenter(self.metadata, session, max_batch_pixels=sys.maxsize).segment(
            image, score_threshold=score_threshold, overlap_threshold=overlap_threshold
        )
        return result, session.timings

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
        for engine in self.engines:
            engine.close()
        self.threads.close()

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


class _TicketSession:
    """The engines as one session for one image: the one that has least to do runs; times are added up."""

    def __init__(self, engines: list[Engine], ticket: Ticket) -> None:
        self._engines = engines
        self._ticket = ticket
        self.timings = Timings()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._ticket.check()
        engine = min(self._engines, key=lambda engine: (not engine.is_ready, engine.num_pending))
        outputs, timings = engine.run_timed(inputs, self._ticket)
        self.timings.queue += timings.queue
        self.timings.engine += timings.engine
        self.timings.batch_size = max(self.timings.batch_size, timings.batch_size)
        return outputs


def check_ready(model: Model) -> None:
    """Raise EngineDownError unless an engine of the model can answer."""
    if not model.is_ready:
        raise EngineDownError(f"model {model.label} {model.state}")
