"""What is told of an engine's runs: to the request that an image is of, and to those who count."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the graph, as metrics want it: canvases in the batch, seconds of the engine's time."""

    size: int
    seconds: float


@dataclass(kw_only=True)
class Timings:
    """Seconds that one image waited for the engine and that the engine ran with it; canvases of its largest batch."""

    queue: float = 0.0
    engine: float = 0.0
    batch_size: int = 0


class Observer:
    """What an engine tells while it lives; does nothing by itself."""

    def ran(self, run: Run) -> None:
        """After each run."""

    def restarted(self) -> None:
        """A process that had been ready ended, and another is started."""
