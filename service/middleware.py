"""What every request passes first: an id, a line in the log, and a 500 for what nobody caught.

`service.app` has the order of all middleware. All is plain ASGI: Starlette's BaseHTTPMiddleware hides a client's
disconnection from the routes.
"""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import ServiceError
from service.problems import problem_response

PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})

logger = logging.getLogger("knet.http")
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
        "key_name": scope["state"].get("api_key"),
    }
    # Probes come every few seconds and would drown the rest.
    level = logging.DEBUG if scope["path"] in PROBES else logging.INFO
    logger.log(level, "%s %s %d %.0f ms", scope["method"], scope["path"], status, milliseconds, extra=fields)
