"""The open connections of a server: their limits, their clock, and who makes room when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.settings import Settings

_SWEEP_S = 0.25
_HALTED_S = 1.0  # a body of which nothing has come for so long may make room for a new connection


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds, bytes and counts of one connection; `service.protocol` says what each bounds."""

    head_timeout_s: float
    stall_timeout_s: float
    transfer_timeout_s: float
    max_header_bytes: int
    max_headers: int
    max_connections: int


def limits_of(settings: Settings) -> Limits:
    """The limits that the settings name."""
    return Limits(
        head_timeout_s=settings.head_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
        transfer_timeout_s=settings.transfer_timeout_s,
        max_header_bytes=settings.max_header_bytes,
        max_headers=settings.max_headers,
        max_connections=settings.max_connections,
    )


class Connection(Protocol):
    """What the table asks of a connection."""

    loop: asyncio.AbstractEventLoop
    heard_at: float  # when its client last sent something, on the loop's clock

    def check(self, now: float) -> None:
        """End what has taken too long."""

    def evict(self) -> None:
        """Close at once."""


class Connections:
    """Those that wait for their client are known apart, oldest first.

    Args:
        limits: of each.
        refused: called with the cause when a connection is refused or ended.
    """

    def __init__(self, limits: Limits, refused: Callable[[str], None]) -> None:
        self.limits = limits
        self.refused = refused
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # dicts as ordered sets
        self._sending: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Take a new connection in, in the place of another if need be; False when all others are at work."""
        self._open.add(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(_SWEEP_S, self._sweep, connection.loop)
        while len(self._open) > self.limits.max_connections:
            oldest = self._replaceable(connection.loop.time())
            if oldest is None:
                return False
            self.refused("evicted")
            self.remove(oldest)
            oldest.evict()
        return True

    def _replaceable(self, now: float) -> Connection | None:
        """An idle connection, or one whose body has come to a halt; the one that has waited longest."""
        for connection in self._idle:
            return connection
        for connection in self._sending:
            return connection if now - connection.heard_at > _HALTED_S else None
        return None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self.mark_working(connection)

    def mark_idle(self, connection: Connection) -> None:
        """It waits for a request, or for the rest of a head."""
        self.mark_working(connection)
        self._idle[connection] = None

    def mark_sending(self, connection: Connection) -> None:
        """Some of its body has just come, and more is to come."""
        self.mark_working(connection)
        self._sending[connection] = None

    def mark_working(self, connection: Connection) -> None:
        """Its client has done its part."""
        self._idle.pop(connection, None)
        self._sending.pop(connection, None)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self._open):
            connection.check(now)
        self._timer = loop.call_later(_SWEEP_S, self._sweep, loop) if self._open else None
