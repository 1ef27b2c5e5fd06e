"""What every request passes, outermost first: `RequestContext`, `ApiKeys`, `BodyLimit`.

Plain ASGI: Starlette's BaseHTTPMiddleware hides a client's disconnection from the routes.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import BodyTooLargeError, MalformedRequestError, ServiceError, UnauthorizedError
from service.problems import problem_response

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})

logger = logging.getLogger("knet.http")
_DRAIN_S = 5.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Gives each request an id (a sane `X-Request-ID` is kept), logs it, and turns stray exceptions into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        logs.request_id.set(request_id)  # for this task and its threads
        begin = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or 499  # for the log alone; nobody is there to answer
        except Exception as error:
            logger.exception("request failed")
            if not status:
                failure = ServiceError(f"{type(error).__name__}: {error}")
                await problem_response(failure, scope)(scope, receive, send_with_id)
        _log_access(scope, status, 1000 * (time.perf_counter() - begin))
        return None


def _log_access(scope: Scope, status: int, milliseconds: float) -> None:
    fields = {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "duration_ms": round(milliseconds, 2),
        "key_name": scope["state"].get("key_name"),
    }
    # Probes come every few seconds and would drown the rest.
    level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
    logger.log(level, "%s %s %d %.0f ms", scope["method"], scope["path"], status, milliseconds, extra=fields)


class ApiKeys:
    """Lets only requests with a known key pass, but for the paths that need none; without keys, all pass."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self.app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and self._digests and scope["path"] not in OPEN_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            digest = _digest(key.strip())
            # All are compared, in constant time each, so that time tells nothing.
            known = [hmac.compare_digest(digest, one) for one in self._digests]
            if scheme.lower() != "bearer" or not any(known):
                refusal = UnauthorizedError("send a key of this server as `Authorization: Bearer KEY`")
                return await problem_response(refusal, scope)(scope, receive, send)
        return await self.app(scope, receive, send)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class BodyLimit:
    """Counts the body's bytes as they arrive, whatever `Content-Length` claims, and ends the request at the limit."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counted body, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            refusal: ServiceError = MalformedRequestError("Content-Length is not a number")
            return await problem_response(refusal, scope)(scope, receive, send)
        if int(length) > self.max_bytes:
            if "expect" not in Headers(scope=scope):  # a client that asks first has sent nothing yet
                await self._drain(receive)
            return await problem_response(self._refusal(), scope)(scope, receive, send)
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                if message.get("more_body", False):
                    await self._drain(receive)
                raise self._refusal()
            return message

        return await self.app(scope, counting_receive, send)

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

    def _refusal(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body has more than {self.max_bytes:,} bytes, this server's limit")
