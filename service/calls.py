"""What has been asked over one link and has no answer yet, and which slots are free."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from service.errors import ServiceError
from service.slots import Slots
from service.ticket import Ticket


@dataclass(kw_only=True, eq=False)
class Call:
    """One canvas in a slot; `reply` is what the engine process says of it."""

    slot: int
    reply: Future[Mapping[str, Any]] = field(default_factory=Future)
    abandoned: bool = False


class Calls:
    """Slots and calls of one link; threads may share it.

    A call is opened, which gives it a slot for its inputs, begun before the process is told of it, collected, and
    released, whatever happens in between.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._turn = threading.Lock()  # one thread at a time waits for slots, so that the first comes first
        self._changed = threading.Condition()
        self._free = list(range(slots.sizes.num_slots))
        self._pending: dict[int, Call] = {}
        self._down: ServiceError | None = None

    @property
    def num_pending(self) -> int:
        """Canvases that wait for the engine or run."""
        return len(self._pending)

    def down(self, error: ServiceError) -> None:
        """Refuse calls, and fail those that wait."""
        with self._changed:
            self._down = error
            pending, self._pending = self._pending, {}
            for call in pending.values():
                self._end(call, error)
            self._changed.notify_all()

    def open(self, count: int, ticket: Ticket) -> list[Call]:
        """`count` calls, each with a slot, at most as many as there are slots; waits for them.

        Raises:
            ServiceError: the engine is down, or the ticket is no longer good.
        """
        assert count <= self._slots.sizes.num_slots
        if not self._turn.acquire(timeout=ticket.remaining):
            raise ticket.expired()
        try:
            with ticket.watched(self._wake), self._changed:
                while True:
                    ticket.check()
                    if self._down is not None:
                        raise self._down
                    if len(self._free) >= count:
                        break
                    self._changed.wait(ticket.remaining)
                return [Call(slot=self._free.pop()) for _ in range(count)]
        finally:
            self._turn.release()

    def begin(self, calls: Sequence[Call]) -> None:
        """From now on the process may reply; raises EngineDownError if it has ended meanwhile."""
        with self._changed:
            if self._down is not None:
                raise self._down
            self._pending |= {call.slot: call for call in calls}

    def resolve(self, replies: Iterable[Mapping[str, Any]]) -> None:
        """Hand the replies of the process to their calls."""
        with self._changed:
            for reply in replies:
                call = self._pending.pop(int(reply["slot"]), None)
                if call is not None:
                    self._end(call, reply)
            self._changed.notify_all()

    def collect(self, call: Call, ticket: Ticket) -> Mapping[str, Any]:
        """The reply to a call; raises ServiceError when the engine ends or the ticket is no longer good."""

        def leave(error: ServiceError) -> None:
            with suppress(Exception):  # it has been replied to meanwhile
                call.reply.set_exception(error)

        with ticket.watched(leave):
            try:
                return call.reply.result(ticket.remaining)
            except TimeoutError:
                raise ticket.expired() from None

    def release(self, calls: Sequence[Call]) -> None:
        """Give the slots back; those of calls that the process may still write to follow with its reply."""
        with self._changed:
            for call in calls:
                if self._pending.get(call.slot) is call:
                    call.abandoned = True
                    self._slots.abandon(call.slot)
                else:
                    self._free.append(call.slot)
            self._changed.notify_all()

    def _end(self, call: Call, outcome: Mapping[str, Any] | ServiceError) -> None:
        """With the lock held, once a call is no longer pending."""
        if call.abandoned:
            self._free.append(call.slot)
            return
        with suppress(Exception):  # its ticket was cancelled; whoever waits is about to release it
            if isinstance(outcome, ServiceError):
                call.reply.set_exception(outcome)
            else:
                call.reply.set_result(outcome)

    def _wake(self, error: ServiceError) -> None:
        with self._changed:
            self._changed.notify_all()
