"""What the server tells Prometheus: every name has the prefix `knet_`, seconds and bytes are the units.

Labels are bounded: a model that the server does not know and a task that there is not become `unknown`.
"""

import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics

from service.gpu import memory_total, memory_used
from service.version import own_version

Stage = Literal["decode", "queue", "engine", "encode"]
Watched = Literal[
    "in_flight", "queued", "ready_engines", "engine_memory_bytes", "gpu_memory_used_bytes", "gpu_memory_total_bytes"
]
Readings = Callable[[], Mapping[str, float]]
LoadedModels = Callable[[], Iterable[tuple[str, str, str]]]

logger = logging.getLogger("knet.metrics")

_UNKNOWN = "unknown"
_TASKS = frozenset({"panoptic", "instance", "semantic"})
# From a cached answer of a small model on a GPU to the longest deadline in use.
_REQUEST_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0)
_STAGE_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
_BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
# The label of each watched gauge, and what it tells.
_WATCHED: dict[Watched, tuple[str, str]] = {
    "in_flight": ("model", "Images accepted and not answered yet."),
    "queued": ("model", "Canvases that wait for an engine, a second ago at most."),
    "ready_engines": ("model", "Engine processes that are loaded, warm and alive."),
    "engine_memory_bytes": ("model", "Resident memory of the engine processes."),
    "gpu_memory_used_bytes": ("device", "Memory of the GPU in use, by any process."),
    "gpu_memory_total_bytes": ("device", "Memory of the GPU."),
}

# Its `_created` series would double the number of series, and Prometheus finds restarts without them.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one server, in a registry of their own; every method may be called from any thread."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._readings: dict[Watched, Readings] = {
            "gpu_memory_used_bytes": memory_used,
            "gpu_memory_total_bytes": memory_total,
        }
        self._loaded: LoadedModels = tuple
        self._known: set[str] = set()
        answer = ("model", "task", "outcome")
        self._requests = Counter(
            "knet_requests", "Images answered, by outcome: ok, or the type of the problem.", answer, registry=registry
        )
        self._durations = Histogram(
            "knet_request_duration_seconds",
            "Seconds from the accepted image to its answer.",
            answer,
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "knet_stage_duration_seconds",
            "Seconds that one image spent in a stage: decode, queue, engine, encode.",
            ("model", "stage"),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "knet_batch_size",
            "Canvases in one run of an engine.",
            ("model",),
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        self._busy = Counter(
            "knet_engine_busy_seconds", "Seconds that engines spent running.", ("model",), registry=registry
        )
        self._refusals = Counter(
            "knet_refusals", "Requests refused before any work, by cause.", ("cause",), registry=registry
        )
        self._restarts = Counter(
            "knet_engine_restarts", "Engine processes started anew after one ended.", ("model",), registry=registry
        )
        ProcessCollector(registry=registry)
        registry.register(self)

    def answered(self, *, model: str, task: str, outcome: str, seconds: float) -> None:
        """One image was answered after `seconds`; `outcome` is `ok` or the problem's type."""
        labels = (self._model(model), task if task in _TASKS else _UNKNOWN, outcome)
        self._requests.labels(*labels).inc()
        self._durations.labels(*labels).observe(seconds)

    def stage(self, *, model: str, stage: Stage, seconds: float) -> None:
        """One image spent `seconds` in a stage."""
        self._stages.labels(self._model(model), stage).observe(seconds)

    def batch(self, *, model: str, size: int, seconds: float) -> None:
        """One run of an engine over `size` canvases took `seconds` of its time."""
        label = self._model(model)
        self._batches.labels(label).observe(size)
        self._busy.labels(label).inc(seconds)

    def refused(self, cause: str) -> None:
        """A request was refused; `cause` is the problem's type."""
        self._refusals.labels(cause).inc()

    def restarted(self, *, model: str) -> None:
        """An engine process had to be started anew."""
        self._restarts.labels(self._model(model)).inc()

    def watch(self, name: Watched, read: Readings) -> None:
        """Let `read` give a gauge's values by model, or by device for those of the GPU, at each scrape.

        It is called in a thread. Raises ValueError for an unknown name.
        """
        if name not in _WATCHED:
            raise ValueError(f"unknown gauge {name!r}; legal: {', '.join(_WATCHED)}")
        self._readings[name] = read

    def loaded(self, read: LoadedModels) -> None:
        """Let `read` give the loaded models as (name, version, variant), from any thread.

        Only the names that it gave at some time become labels.
        """
        self._loaded = read

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their content type: OpenMetrics where `Accept` names it, else Prometheus' text."""
        if "application/openmetrics-text" in accept:
            content: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return content, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """What is read when one asks; called by the registry."""
        yield InfoMetricFamily(
            "knet_build",
            "Versions of the server and of Python.",
            value={"version": own_version(), "python_version": platform.python_version()},
        )
        models = InfoMetricFamily("knet_model", "The models that are loaded.", labels=("model", "version", "variant"))
        for labels in self._loaded_models():
            models.add_metric(labels, {})
        yield models
        for watched, (label, help_) in _WATCHED.items():
            gauge = GaugeMetricFamily(f"knet_{watched}", help_, labels=(label,))
            for key, value in self._read(watched).items():
                gauge.add_metric((key,), value)
            yield gauge

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry shall not read values only to learn the names."""
        return ()

    def _read(self, name: Watched) -> Mapping[str, float]:
        """A gauge's values; one that cannot be read is left out, so that the others are still seen."""
        try:
            return self._readings[name]() if name in self._readings else {}
        except Exception:
            logger.exception("cannot read knet_%s", name)
            return {}

    def _loaded_models(self) -> Iterable[tuple[str, str, str]]:
        try:
            return list(self._loaded())
        except Exception:
            logger.exception("cannot read knet_model_info")
            return []

    def _model(self, name: str) -> str:
        """The label for a model: anybody may ask for any name, and each label would be kept for ever."""
        if name not in self._known:
            self._known.update(loaded for loaded, _, _ in self._loaded_models())
        return name if name in self._known else _UNKNOWN
