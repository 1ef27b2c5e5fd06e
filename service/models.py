"""The models of a running server: each version with its engine process and the threads that feed it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.answers import tasks_of
from service.engine import Engine
from service.errors import NotFoundError
from service.instances import Result
from service.repository import StoredArtifact
from service.schemas import ModelDetail, ModelSummary, ModelVersion
from service.segmenter import Segmenter
from service.settings import Settings
from service.threads import Threads

# While the engine runs one image, another's canvases are drawn or its tiles joined.
_FEEDING_THREADS = 2


@dataclass(kw_only=True)
class Timings:
    """Seconds that one image spent waiting for the engine and in it, over all its batches."""

    queue: float = 0.0
    engine: float = 0.0


class Model:
    """One version, loaded."""

    def __init__(self, stored: StoredArtifact, settings: Settings) -> None:
        self.metadata = stored.metadata
        self.engine = Engine(
            stored.metadata,
            stored.folder,
            stored.variant,
            threads=settings.engine_threads,
            timeout_s=settings.engine_timeout_s,
        )
        self.threads = Threads(_FEEDING_THREADS, f"feed {self.engine.label}")

    def segment(
        self, image: NDArray[np.uint8], *, score_threshold: float | None, overlap_threshold: float | None
    ) -> tuple[Result, Timings]:
        """Segment one image (H, W, 3); blocks."""
        session = _TimedSession(self.engine)
        result = Segmenter(self.metadata, session).segment(
            image, score_threshold=score_threshold, overlap_threshold=overlap_threshold
        )
        return result, session.timings

    def describe(self) -> ModelVersion:
        """What the API tells about this version."""
        metadata = self.metadata
        return ModelVersion(
            version=metadata.version,
            ready=self.engine.is_ready,
            state=self.engine.state,
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
        )

    def close(self) -> None:
        """End the engine process."""
        self.engine.close()
        self.threads.close()


class _TimedSession:
    """An engine that adds up one image's times."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.timings = Timings()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs, queue, engine = self._engine.run_timed(inputs)
        self.timings.queue += queue
        self.timings.engine += engine
        return outputs


class Models:
    """All versions of all models, by name."""

    def __init__(self, artifacts: Iterable[StoredArtifact], settings: Settings) -> None:
        self._by_name: dict[str, dict[str, Model]] = {}
        for stored in artifacts:  # oldest version first
            versions = self._by_name.setdefault(stored.metadata.name, {})
            versions[stored.metadata.version] = Model(stored, settings)

    def find(self, name: str, version: str | None = None) -> Model:
        """A version, the newest where None; raises NotFoundError with what there is."""
        versions = self._versions(name)
        if version is None:
            return list(versions.values())[-1]
        if version not in versions:
            raise NotFoundError(f"model {name} has no version {version}; it has {', '.join(versions)}")
        return versions[version]

    def summaries(self) -> list[ModelSummary]:
        """One line for each model."""
        result = []
        for name, versions in self._by_name.items():
            newest = self.find(name)
            metadata, ready = newest.metadata, newest.engine.is_ready
            result.append(
                ModelSummary(
                    name=name, versions=list(versions), kind=metadata.kind, tasks=tasks_of(metadata), ready=ready
                )
            )
        return result

    def detail(self, name: str) -> ModelDetail:
        """All versions of one model."""
        return ModelDetail(name=name, versions=[model.describe() for model in self._versions(name).values()])

    def not_ready(self) -> list[str]:
        """Versions that cannot answer now, with their state; empty when the server is ready."""
        return [f"{m.engine.label} {m.engine.state}" for m in self._all() if not m.engine.is_ready]

    def start(self) -> None:
        """Start all engine processes without waiting for them."""
        for model in self._all():
            model.engine.start()

    def close(self) -> None:
        """End all engine processes."""
        for model in self._all():
            model.close()

    def _all(self) -> list[Model]:
        return [model for versions in self._by_name.values() for model in versions.values()]

    def _versions(self, name: str) -> dict[str, Model]:
        if name not in self._by_name:
            raise NotFoundError(f"there is no model {name}; there is {', '.join(self._by_name)}")
        return self._by_name[name]
