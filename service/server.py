"""A running server: in the foreground for `knet serve`, in a thread for `knet segment`."""

import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.connections import Connections, limits_of
from service.errors import ServiceError
from service.protocol import protocol_class
from service.settings import Settings

logger = logging.getLogger("knet.server")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; raises ArtifactError when the repository is no good."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # uvicorn finishes what runs, then raises the signal again: a requested stop is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listen(settings) as listener:
        server = uvicorn.Server(_uvicorn_config(settings))
        logger.info("listening on %s (API documentation: /docs)", _url(listener))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            sys.exit(130)


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
    connections = Connections(limits_of(settings))
    app = create_app(settings)
    app.state.connections = connections
    return uvicorn.Config(
        app,
        http=protocol_class(connections),
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,  # the application's own line has the request id and the duration
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
