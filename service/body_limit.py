"""Bounds on what requests bring, counted as it arrives: the bytes of one, the bytes of all at once, the parameters."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError, MalformedRequestError, MemoryFullError, ServiceError
from service.problems import problem_response

MAX_QUERY_PARAMETERS = 256
_DRAIN_S = 5.0


class Held:
    """Bytes of a request's images that the server holds, wherever they come from; all in `scope["state"]["held"]`."""

    def __init__(self, limit: "BodyLimit") -> None:
        self._limit = limit
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Count more; raises BodyTooLargeError or MemoryFullError."""
        self.num_bytes += num_bytes
        self._limit.held_bytes += num_bytes
        if self.num_bytes > self._limit.max_bytes:
            raise self._limit.refusal()
        if self._limit.held_bytes > self._limit.max_held_bytes:
            self._limit.refused(MemoryFullError.type)
            raise MemoryFullError("this server holds as many request bodies as it may; try again soon")

    def release(self) -> None:
        """The request has ended."""
        self._limit.held_bytes -= self.num_bytes
        self.num_bytes = 0


class BodyLimit:
    """Counts a body's bytes, whatever `Content-Length` claims, and ends the request at the limit.

    Args:
        app: gets the requests.
        max_bytes: of one request's body.
        max_held_bytes: of the bodies of all requests.
        refused: called with the cause when a request is refused because of the others.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_held_bytes: int, refused: Callable[[str], None]) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_held_bytes = max_held_bytes
        self.refused = refused
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counted body, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal: ServiceError
        if scope["query_string"].count(b"&") >= MAX_QUERY_PARAMETERS:
            refusal = MalformedRequestError(f"the request has more than {MAX_QUERY_PARAMETERS} query parameters")
            return await problem_response(refusal, scope)(scope, receive, send)
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            refusal = MalformedRequestError("Content-Length is not a number")
            return await problem_response(refusal, scope)(scope, receive, send)
        if int(length) > self.max_bytes:
            if "expect" not in headers:  # a client that asks first has sent nothing yet
                await self._drain(receive)
            return await problem_response(self.refusal(), scope)(scope, receive, send)
        held = scope.setdefault("state", {})["held"] = Held(self)
        try:
            return await self.app(scope, self._counted(receive, held), send)
        finally:
            held.release()

    def _counted(self, receive: Receive, held: Held) -> Receive:
        async def counting_receive() -> Message:
            message = await receive()
            try:
                held.take(len(message.get("body", b"")))
            except ServiceError:
                if message.get("more_body", False):
                    await self._drain(receive)
                raise
            return message

        return counting_receive

    async def _drain(self, receive: Receive) -> None:
        """Take in some of what is refused: many clients look for an answer only once they have sent everything."""
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while drained < self.max_bytes:
                    message = await receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    def refusal(self) -> BodyTooLargeError:
        """More than `max_bytes`."""
        return BodyTooLargeError(f"the body has more than {self.max_bytes:,} bytes, this server's limit")
