"""A request's right to be worked on: until its deadline, or until its client leaves."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import DeadlineError, ServiceError


class Ticket:
    """Shared by the event loop, which may cancel it, and the threads that work for it.

    Args:
        seconds: from now until the deadline.
        until: in place of that, a deadline of `time.monotonic`, which all processes of a machine share.
    """

    def __init__(self, seconds: float = 0.0, *, until: float | None = None) -> None:
        self._seconds = seconds if until is None else max(0.0, until - time.monotonic())
        self.deadline = time.monotonic() + self._seconds
        self._lock = threading.Lock()
        self.error: ServiceError | None = None  # what it was cancelled with
        self._on_cancel: list[Callable[[ServiceError], None]] = []

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raise what it was cancelled with, or DeadlineError after the deadline; else nothing."""
        if self.error is not None:
            raise self.error
        if not self.remaining:
            raise self.expired()

    def expired(self) -> DeadlineError:
        """The error of a deadline that has passed."""
        return DeadlineError(f"no answer within {self._seconds:g} s, this request's deadline")

    def cancel(self, error: ServiceError) -> None:
        """End it: work that waits is woken with `error`, work that runs sees it at its next check."""
        with self._lock:
            self.error = self.error or error
            listeners, self._on_cancel = self._on_cancel, []
        for listener in listeners:
            listener(self.error)

    @contextmanager
    def watched(self, listener: Callable[[ServiceError], None]) -> Iterator[None]:
        """Within the block, `listener` is called once if the ticket is cancelled (at once if it has been)."""
        with self._lock:
            error = self.error
            if error is None:
                self._on_cancel.append(listener)
        if error is not None:
            listener(error)
        try:
            yield
        finally:
            with self._lock:
                if listener in self._on_cancel:
                    self._on_cancel.remove(listener)
