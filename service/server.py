"""A running server: in the foreground for `knet serve`, in a thread for `knet segment`."""

import logging
import math
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service import logs, tracing
from service.app import create_app
from service.errors import ServiceError
from service.settings import Settings, unknown_variables

logger = logging.getLogger("knet.server")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; raises ArtifactError when the repository is no good.

    Raises ServiceError where traces are asked for and cannot be sent, or the port is taken.
    """
    logs.configure(settings.log_level, settings.log_format)
    if unknown := unknown_variables():
        logger.warning("environment variables that are no settings: %s", ", ".join(unknown))
    tracing.configure()
    # uvicorn finishes what runs, then raises the signal again: a requested stop is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listen(settings) as listener:
        server = uvicorn.Server(_uvicorn_config(settings))
        logger.info("listening on %s (API documentation: /docs)", _url(listener))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            tracing.close()


@contextmanager
def background(settings: Settings) -> Iterator[str]:
    """Serve in a thread and give the server's URL; it may not be ready yet. Stops at the end of the block."""
    with _listen(settings) as listener:
        server = uvicorn.Server(_uvicorn_config(settings))
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


def _uvicorn_config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings),
        http="h11",  # httptools takes headers of any size
        h11_max_incomplete_event_size=64 * 1024,
        ws="none",
        log_config=None,
        access_log=False,  # the application's own line has the request id and the duration
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
    )
