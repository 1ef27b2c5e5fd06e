"""The HTTP/1.1 protocol of the server: uvicorn's httptools protocol with the limits that uvicorn lacks.

What a connection may cost is bounded at each moment of its life:

    waits for a request   `head_timeout_s` when new, then uvicorn's keep-alive          closed
    sends the head        `head_timeout_s` in all; `max_header_bytes`, `max_headers`    408, 431
    sends the body        `stall_timeout_s` without a byte, `transfer_timeout_s` in all 408
    waits for the answer  nothing here: the engine has a limit of its own
    reads the answer      `stall_timeout_s` without taking a byte, `transfer_timeout_s` aborted
    has been refused      `_LINGER_S`, in which what it still sends is thrown away      closed

Above `max_connections`, the connection that has waited longest for its client makes room for a new one, so that a crowd
of silent clients cannot keep a health check out.
"""

import asyncio
import logging
import re
import uuid
from http import HTTPStatus
from typing import ClassVar

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.connections import Connections

_LINGER_S = 3.0
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)

logger = logging.getLogger("knet.http")


def protocol_class(connections: Connections) -> type["LimitedProtocol"]:
    """A class for `uvicorn.Config(http=...)`, whose instances share a table."""
    return type("ServerProtocol", (LimitedProtocol,), {"table": connections})


class LimitedProtocol(HttpToolsProtocol):
    """One connection; made by `protocol_class`."""

    table: ClassVar[Connections]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or answer 503."""
        super().connection_made(transport)
        self._limits = self.table.limits
        self.heard_at = self.loop.time()
        self._head_since: float | None = self.heard_at  # None: no head is awaited
        self._head_bytes = 0  # that came in pieces
        self._parsed_head_bytes = 0
        self._body_until: float | None = None  # None: no body is awaited
        self._refusal: tuple[int, str, str] | None = None  # that waits for the answers before it
        self._linger_until: float | None = None  # None: neither refused nor done with
        self._is_last = False  # the client wants no further request
        self._unsent = 0  # bytes of an answer that the client has not taken, when it was last looked
        self._unsent_since = self._taken_at = self.heard_at
        if self.table.add(self):
            self.table.mark_idle(self)
        else:
            self._refuse(503, "too-many-connections", "this server has as many connections as it takes; try again soon")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.table.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what it or a limit rejects is answered here."""
        if self._refusal is not None or self._linger_until is not None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self.heard_at = self.loop.time()
        if self._head_since is None and self._body_until is None:  # the first bytes of a further request
            self._head_since = self.heard_at
        if self._head_since is not None:
            data = _without_upgrade(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error.__context__, _HeadTooLargeError):
                self._refuse(431, "header-too-large", str(error.__context__))
            else:
                self._refuse(400, "malformed-request", "this is no HTTP/1.1 request that can be read")
            return
        if self._head_since is not None:
            self._head_bytes += len(data)
            if not self._owes_answer:
                self.table.mark_idle(self)
            if self._head_bytes > self._limits.max_header_bytes:  # within one header that does not end
                self._refuse(431, "header-too-large", self._too_many_bytes())
        elif self._body_until is not None:
            self.table.mark_sending(self)

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._parsed_head_bytes = 0
        if self._head_since is None:  # right behind another
            self._head_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Count the request's line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count_head(len(name) + len(value) + 4)
        if len(self.headers) >= self._limits.max_headers:
            raise _HeadTooLargeError(f"the request has more than {self._limits.max_headers} headers")
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise ValueError("a transfer coding that is not undone here")
        super().on_header(name, value)

    def _count_head(self, num_bytes: int) -> None:
        self._parsed_head_bytes += num_bytes
        if self._parsed_head_bytes > self._limits.max_header_bytes:
            raise _HeadTooLargeError(self._too_many_bytes())

    def _too_many_bytes(self) -> str:
        return f"the request's line and headers have more than {self._limits.max_header_bytes:,} bytes"

    def on_headers_complete(self) -> None:
        """Start the application; the body's clock runs from here."""
        self._head_since = None
        self._head_bytes = 0
        self._body_until = self.loop.time() + self._limits.transfer_timeout_s
        super().on_headers_complete()
        # Closing is ours: uvicorn's would cut off the answer to a client that is still sending.
        self._is_last, self.cycle.keep_alive = not self.cycle.keep_alive, True

    def on_message_complete(self) -> None:
        """Nothing more is awaited of the client."""
        self._body_until = None
        self.table.mark_working(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request; what still comes of a body that nobody waits for has little time left."""
        super().on_response_complete()
        if not self.cycle.response_complete:  # of one before, and another runs
            return
        if self._refusal is not None:
            return self._refuse(*self._refusal)
        if self._body_until is not None:
            self._body_until = min(self._body_until, self.loop.time() + _LINGER_S)
        else:
            self.table.mark_idle(self)
        if self._is_last:
            self._close_slowly(is_complete=self._body_until is None)

    # Time.

    def check(self, now: float) -> None:
        """End what has taken too long; called a few times a second."""
        if self._is_stuck(now):
            self.table.refused("reader-too-slow")
            self.transport.abort()
        elif self._linger_until is not None:
            if now > self._linger_until:
                self.transport.close()
        elif self._head_since is not None:
            if self._owes_answer:  # it may not even be read yet
                self._head_since = now
            if now - self._head_since > self._limits.head_timeout_s:
                self._refuse(408, "request-timeout", "the request's line and headers did not arrive in time")
        elif self._body_until is not None:
            if self.flow.read_paused:  # it is the application that takes no more now
                self.heard_at = now
            if now > self._body_until or now - self.heard_at > self._limits.stall_timeout_s:
                self._refuse(408, "request-timeout", "the request's body did not arrive in time")

    def _is_stuck(self, now: float) -> bool:
        """Whether the client does not take its answer. Asked of closing connections, too: they wait for it."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or self._unsent == 0:
            self._unsent_since = now
        if unsent == 0 or unsent != self._unsent:
            self._taken_at = now
        self._unsent = unsent
        limits = self._limits
        return now - self._taken_at > limits.stall_timeout_s or now - self._unsent_since > limits.transfer_timeout_s

    def shutdown(self) -> None:
        """The server stops: a body that is still on its way has no more time than one that came to a halt."""
        super().shutdown()
        if self._body_until is not None:
            self._body_until = min(self._body_until, self.loop.time() + self._limits.stall_timeout_s)

    # Refusals.

    def evict(self) -> None:
        """Close at once, to make room."""
        self._leave_application()
        if self._linger_until is None and self._can_be_answered(408):
            self.transport.write(_problem(408, "evicted", "another connection needed the place of this idle one"))
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        self.transport.close()

    def _refuse(self, status: int, cause: str, detail: str) -> None:
        """Answer by a problem object, where an answer is awaited, and close; after the answers to requests before."""
        if self._owes_answer:
            self._refusal = (status, cause, detail)
            return
        self.table.refused(cause)
        self._leave_application()
        is_answered = self._can_be_answered(status)
        if is_answered:
            self.transport.write(_problem(status, cause, detail))
        self._close_slowly(is_complete=not is_answered)

    def _close_slowly(self, *, is_complete: bool) -> None:
        """To close with bytes unread would take the answer back from the network: throw away what comes, for a bit."""
        self.table.mark_idle(self)
        self._linger_until = self.loop.time() + _LINGER_S
        if is_complete or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.resume_reading()

    @property
    def _owes_answer(self) -> bool:
        """Whether a request has come as a whole and has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete and self._body_until is None

    def _can_be_answered(self, status: int) -> bool:
        """Not in or after the answer; and who has asked nothing is not told that it took too long."""
        is_answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        is_answering |= self.cycle is not None and self.cycle.response_complete and self._body_until is not None
        is_silent = self._head_bytes == 0 and self._body_until is None
        return not (is_answering or (is_silent and status == 408))

    def _leave_application(self) -> None:
        """What runs for this connection sees its client gone."""
        self.pipeline.clear()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class _HeadTooLargeError(Exception):
    """Raised through the parser, never out of this file."""


def _without_upgrade(data: bytes) -> bytes:
    """The offer to change the protocol hidden: the parser would take the body for the other protocol's first bytes."""
    end = data.find(b"\r\n\r\n")
    if not _UPGRADE.search(data, 0, end if end >= 0 else len(data)):
        return data
    head, end_of_head, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end_of_head + body


def _problem(status: int, cause: str, detail: str) -> bytes:
    """A whole HTTP response."""
    title, request_id = HTTPStatus(status).phrase, uuid.uuid4().hex
    logger.info("refused before it was a request: %d %s %s", status, cause, request_id)
    problem = {"type": f"urn:knet:problem:{cause}", "title": title, "status": status, "detail": detail}
    content = orjson.dumps({**problem, "instance": "", "request_id": request_id})
    head = (
        f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(content)}\r\n"
        f"x-request-id: {request_id}\r\nconnection: close\r\n"
    )
    return head.encode() + (b"retry-after: 1\r\n" if status == 503 else b"") + b"\r\n" + content
