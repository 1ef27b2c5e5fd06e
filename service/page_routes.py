"""The page at `/`, the API's documentation at `/docs`, and the files that both load: all from this server."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import NotFoundError

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for again each time, answered with 304 while the ETag is the same
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    etag: str


def _read(path: Traversable) -> _File:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _MEDIA_TYPES[PurePosixPath(path.name).suffix], etag)


def _read_all() -> dict[str, _File]:
    """Every file by its name; no request reaches the file system, so none can ask for another."""
    own = resources.files("service") / "page"
    # A package that holds Swagger UI, as FastAPI would have browsers load it from elsewhere.
    swagger_ui = resources.files("fastapi_offline") / "static"
    paths = [*own.iterdir(), swagger_ui / "swagger-ui-bundle.js", swagger_ui / "swagger-ui.css"]
    return {path.name: _read(path) for path in paths}


_FILES = _read_all()
_PAGES = {"/": "index.html", "/docs": "docs.html"}

PATHS = frozenset(_PAGES) | {f"/page/{name}" for name in _FILES if name not in _PAGES.values()}
"""Paths that hold nothing of anybody's, and need no key."""

pages = APIRouter(include_in_schema=False)


@pages.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """A page to try the models in."""
    return _respond("index.html", request)


@pages.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """The API's documentation."""
    return _respond("docs.html", request)


@pages.api_route("/page/{name}", methods=["GET", "HEAD"])
async def part(name: str, request: Request) -> Response:
    """What the two load."""
    if f"/page/{name}" not in PATHS:
        raise NotFoundError(f"there is no file {name} of the page; see /docs")
    return _respond(name, request)


def _respond(name: str, request: Request) -> Response:
    """The file; 304 without content where the client has it already."""
    file = _FILES[name]
    headers = _HEADERS | {"ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
