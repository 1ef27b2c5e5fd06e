"""Answers are compressed for those who ask for it; Starlette does so for those who refuse it (`gzip;q=0`), too."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from service.accept import takes


class Compression(GZipMiddleware):
    """Gzip where `Accept-Encoding` takes it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            scope["headers"] = list(scope["headers"])  # no new scope: layers around this one read what routing adds
            given = ",".join(Headers(scope=scope).getlist("accept-encoding"))
            MutableHeaders(scope=scope)["accept-encoding"] = "gzip" if takes(given, "gzip") else "identity"
        await super().__call__(scope, receive, send)
