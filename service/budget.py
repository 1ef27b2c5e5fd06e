"""A bound on what is held at once, for work in threads."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ServiceError
from service.ticket import Ticket


class Budget:
    """`total` units, such as pixels; first come, first served. Who wants more than there is gets all of it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def hold(self, amount: int, ticket: Ticket) -> Iterator[None]:
        """Units for the time of the block; waits for them. Raises ServiceError when the ticket is no longer good."""
        amount = min(amount, self.total)
        self._take(amount, ticket)
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()

    def _take(self, amount: int, ticket: Ticket) -> None:
        me = object()
        with ticket.watched(self._wake), self._changed:
            self._queue.append(me)
            try:
                while True:
                    ticket.check()
                    if self._queue[0] is me and self._free >= amount:
                        self._free -= amount
                        return
                    self._changed.wait(ticket.remaining)
            finally:
                self._queue.remove(me)
                self._changed.notify_all()

    def _wake(self, error: ServiceError) -> None:
        with self._changed:
            self._changed.notify_all()
