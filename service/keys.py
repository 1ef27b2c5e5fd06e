"""API keys: known by their SHA-256 alone, from the settings and from a file that is read again when it changes.

A line of the file is `NAME:sha256:HEX`, or `NAME:sha256:HEX:admin` for a key that may load and unload models;
`knet key` makes one. Names go to the logs, keys never. Keys are meant to be random, so that one round of SHA-256 is
enough.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import page_routes
from service.errors import ForbiddenError, ServiceError, UnauthorizedError
from service.problems import problem_response
from service.settings import Settings

OPEN_PATHS = page_routes.PATHS | {"/healthz", "/readyz", "/openapi.json", "/v2/health/live", "/v2/health/ready"}

logger = logging.getLogger("knet.keys")
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):sha256:(?P<digest>[0-9a-f]{64})(?P<admin>:admin)?")
_MAX_FILE_BYTES = 1024 * 1024
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Key:
    """A known key."""

    name: str
    digest: bytes
    is_admin: bool


def new_key(name: str, *, is_admin: bool = False) -> tuple[str, str]:
    """A random key, and its line for the file."""
    key = f"knet_{secrets.token_urlsafe(32)}"
    line = f"{name}:sha256:{_digest(key).hex()}{':admin' if is_admin else ''}"
    if not _LINE.fullmatch(line):
        raise ValueError(f"name {name!r} must have 1 to 64 letters, digits, dots, dashes or underscores")
    return key, line


def read_keys(path: Path) -> tuple[Key, ...]:
    """Keys of a file; raises ServiceError when it cannot be read or has a line that is none."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        raise ServiceError(f"cannot read the API keys in {path}: {error}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ServiceError(f"{path} has more than {_MAX_FILE_BYTES:,} bytes")
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:  # the line itself may be a key that was pasted by mistake
            raise ServiceError(f"line {number} of {path} is not NAME:sha256:HEX or NAME:sha256:HEX:admin")
        keys.append(Key(match["name"], bytes.fromhex(match["digest"]), match["admin"] is not None))
    return tuple(keys)


class KeyRing:
    """All keys of a server. Reading the file anew happens in a thread, at most once a second."""

    def __init__(self, settings: Settings) -> None:
        self._fixed = (
            *(Key(f"key-{n}", _digest(key.get_secret_value()), False) for n, key in enumerate(settings.api_keys, 1)),
            *(Key(f"admin-{n}", _digest(key.get_secret_value()), True) for n, key in enumerate(settings.admin_keys, 1)),
        )
        self._path = settings.api_keys_file
        self._version: tuple[int, int, int] | None = None
        self._from_file: tuple[Key, ...] = ()
        self._look_at = 0.0
        self._looking: asyncio.Future[None] | None = None
        if self._path is not None:
            self._from_file = read_keys(self._path)
            self._version = _version(self._path)

    @property
    def is_empty(self) -> bool:
        """Whether the server asks for no key at all. A file that has become empty locks it, and does not open it."""
        return not self._fixed and self._path is None

    async def find(self, key: str) -> Key | None:
        """The key, if it is known; time tells nothing about the others."""
        await self._refresh()
        digest = _digest(key)
        found = None
        for one in (*self._fixed, *self._from_file):
            if hmac.compare_digest(digest, one.digest):
                found = one
        return found

    async def _refresh(self) -> None:
        if self._path is None or time.monotonic() < self._look_at:
            return
        if self._looking is None:
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._look))
        try:
            await asyncio.shield(self._looking)  # one client that leaves does not stop it for the others
        finally:
            if self._looking is not None and self._looking.done():
                self._looking = None

    def _look(self) -> None:
        assert self._path is not None
        version = _version(self._path)
        if version != self._version:
            try:
                self._from_file = read_keys(self._path)
                logger.info("read %d API keys from %s", len(self._from_file), self._path)
            except ServiceError as error:  # it may be half written; the keys before stay good
                logger.error("%s; the keys read before remain", error)
            self._version = version
        self._look_at = time.monotonic() + _LOOK_AGAIN_S


class ApiKeys:
    """Lets only requests with a known key pass, but for the paths that need none; without keys, all pass.

    Puts the key's name into `scope["state"]["api_key"]` and whether it may load models into `["is_admin"]`.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, is_private: bool) -> None:
        self.app = app
        self._keys = keys
        self._is_private = is_private  # only this machine can reach the server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, state = Headers(scope=scope), scope.setdefault("state", {})
        if self._keys.is_empty:
            # Pages of other sites can make a browser on this machine post here; it then names their origin.
            state["is_admin"] = self._is_private and "origin" not in headers
        elif scope["path"] not in OPEN_PATHS:
            scheme, _, text = headers.get("authorization", "").partition(" ")
            key = await self._keys.find(text.strip())
            if scheme.lower() != "bearer" or key is None:
                refusal = UnauthorizedError("send a key of this server as `Authorization: Bearer KEY`")
                return await problem_response(refusal, scope)(scope, receive, send)
            state["api_key"], state["is_admin"] = key.name, key.is_admin
        return await self.app(scope, receive, send)


def require_admin(scope: Scope) -> None:
    """Raise ForbiddenError unless the request's key is an admin's (or the server is open, and on loopback)."""
    if not scope.get("state", {}).get("is_admin", False):
        raise ForbiddenError("this needs an admin key: one of KNET_ADMIN_KEYS, or one marked `admin` in the keys' file")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _version(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file does, also when another is moved into its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
