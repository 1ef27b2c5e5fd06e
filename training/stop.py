"""A stop on request: a run that is told to end finishes its step and saves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_GRACE = 60  # seconds


class Interrupted(BaseException):
    """Raised in work that may be broken off at any point. No Exception, so that nobody takes it for a failure."""


class StopRequest:
    """SIGTERM and Ctrl-C while its context is open. A second Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self.requested = False
        self._breaks_off = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Work that leaves nothing half done: a request raises `Interrupted` in it."""
        self._breaks_off = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._breaks_off = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._breaks_off:
            raise Interrupted


def outlast_signals(_: int) -> None:
    """For a loader's workers: signals to all processes of a run must not take them from the one that saves.

    Ctrl-C does nothing to them, and SIGTERM ends them after a minute: the run's own end comes before that. They cannot
    ignore it, because an interpreter that leaves sends it to the workers it still has, and waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
