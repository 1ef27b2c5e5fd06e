"""A running server: in the foreground for `knet serve`, in a thread for `knet segment`."""

import logging
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service import logs, tracing
from service.allocator import keep_freed_memory
from service.app import create_app
from service.connections import Connections, limits_of
from service.context import Context
from service.engine_worker import Opener
from service.errors import ServiceError
from service.protocol import protocol_class
from service.settings import Settings, unknown_variables
from service.variants import open_session

logger = logging.getLogger("knet.server")

_WRITE_S = 5  # at least, for clients to read answers that are ready, before they are cut off


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM and Ctrl-C let all accepted requests finish first, and SIGHUP reloads the models.

    A second signal ends it at once.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(_uvicorn_config(app, settings))
        self._context: Context = app.state.context
        self._settings = settings
        self._asked_at: float | None = None
        self._wants_reload = False
        self.interrupted = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal to stop does."""
        if self._asked_at is not None:
            self.force_exit = self.should_exit = True
        self._asked_at = self._asked_at or time.monotonic()
        self.interrupted = sig == signal.SIGINT

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """What SIGHUP does; nothing but a note, as a handler may interrupt anything."""
        self._wants_reload = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to leave."""
        if self._wants_reload:
            self._wants_reload = False
            self._context.control.submit(self._reload)
        if self._asked_at is not None and not self.should_exit:
            self.should_exit = self._is_drained(time.monotonic() - self._asked_at)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close connections: clients that read slowly have what is left of the time, too."""
        if self._asked_at is not None:
            left = self._drain_s - (time.monotonic() - self._asked_at)
            self.config.timeout_graceful_shutdown = max(_WRITE_S, math.ceil(left))
        await super().shutdown(sockets)

    def _reload(self) -> None:
        try:
            self._context.models.reload()
        except ServiceError as error:
            logger.error("models were not reloaded: %s", error.detail)

    def _is_drained(self, seconds: float) -> bool:
        """Whether nothing is left to be answered, so many seconds after the signal."""
        admission, settings = self._context.admission, self._settings
        if seconds < settings.drain_delay_s:
            admission.is_ready = False  # load balancers look elsewhere first
            return False
        if not admission.is_closed:
            logger.info("stopping: %d requests to be answered", admission.num_requests)
            admission.close()
        return not admission.num_requests or seconds > self._drain_s

    @property
    def _drain_s(self) -> float:
        """Seconds from the signal on."""
        return self._settings.drain_delay_s + self._settings.drain_timeout_s


def run(settings: Settings, *, opener: Opener = open_session) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ArtifactError: the repository is no good.
        ServiceError: traces are asked for and cannot be sent, or the port is taken.
    """
    keep_freed_memory()
    logs.configure(settings.log_level, settings.log_format)
    if unknown := unknown_variables():
        logger.warning("environment variables that are no settings: %s", ", ".join(unknown))
    tracing.configure()
    with _listen(settings) as listener:
        server = Server(create_app(settings, opener=opener), settings)
        logger.info("listening on %s (API documentation: /docs)", _url(listener))
        signal.signal(signal.SIGHUP, server.handle_hangup)
        try:
            server.run(sockets=[listener])
        finally:
            tracing.close()
    if server.interrupted:
        sys.exit(130)


@contextmanager
def background(settings: Settings, **options: Any) -> Iterator[str]:
    """Serve in a thread and give the server's URL; it may not be ready yet. Stops at the end of the block.

    `options` are those of `create_app`.
    """
    with _listen(settings) as listener:
        server = Server(create_app(settings, **options), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
        thread.start()
        try:
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join()


def _listen(settings: Settings) -> socket.socket:
    """A bound socket: a port in use is noticed before any engine starts, and port 0 is known at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, as asyncio sets TCP_NODELAY only then; without it answers wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    context: Context = app.state.context
    connections = Connections(limits_of(settings), context.metrics.refused)
    return uvicorn.Config(
        app,
        http=protocol_class(connections),
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,  # the application's own line has the request id and the duration
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_WRITE_S,
    )
