"""One version of a model, loaded: its engines, and the number by which codecs know it."""

import threading
import time

from service.answers import tasks_of
from service.codec import threads_for
from service.codecs import Codecs
from service.engine_worker import Opener
from service.errors import EngineDownError
from service.observer import Observer
from service.replicas import Replicas
from service.repository import StoredArtifact
from service.schemas import ModelVersion
from service.session import available_cpus
from service.settings import Settings
from service.variants import open_session

_POLL_S = 0.02


class Model:
    """One version, loaded: its replicas, and who works with it.

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
        self.number: int  # by which codecs know it
        self.replicas = Replicas(
            stored,
            settings,
            opener=opener,
            observer=observer,
            on_ready=lambda engine: codecs.add_engine(self.number, engine),
        )
        self.label = self.replicas.label
        self._codecs = codecs
        num_engines = len(self.replicas.engines)
        threads = threads_for(self.replicas.max_batch, num_engines, codecs.count, available_cpus())
        self.number = codecs.add_model(stored.metadata, threads=threads)
        self.num_images = 0  # accepted and not answered, for the event loop alone
        self._lock = threading.Lock()
        self._num_leases = 0
        self._is_retired = False

    @property
    def is_ready(self) -> bool:
        """Whether an engine of it can answer."""
        return self.replicas.is_ready

    @property
    def expected_wait_s(self) -> float:
        """Seconds that a new image waits for the engine, as far as the last runs tell."""
        return self.num_images * self.replicas.seconds_per_canvas

    def start(self) -> None:
        """Start the engine processes without waiting for them."""
        self.replicas.start()

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
        self.replicas.close()

    def describe(self) -> ModelVersion:
        """What the API tells about this version."""
        metadata = self.metadata
        return ModelVersion(
            version=metadata.version,
            ready=self.is_ready,
            state=self.replicas.state,
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
            running=self.replicas.variant.name,
        )


def check_ready(model: Model) -> None:
    """Raise EngineDownError unless an engine of the model can answer."""
    if not model.is_ready:
        raise EngineDownError(f"model {model.label} {model.replicas.state}")
