"""A process of the server's own, seen from the server: its pipe, its memory, its end."""

import multiprocessing
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import orjson

from service.engine_link import LinkEnd
from service.errors import EngineDownError, ServiceError
from service.memory import resident_bytes

SPAWN = multiprocessing.get_context("spawn")  # no fork: a forked child would share locks with running threads


class OwnProcess:
    """A process that is sent messages until it is killed.

    Args:
        name: of the process, for people.
        serve: a function of a module; it gets its end of the pipe first, then `arguments`.
        arguments: what can be sent to a new process.
    """

    def __init__(self, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self._sending = threading.Lock()
        self.connection, child_end = SPAWN.Pipe()
        # A daemon: multiprocessing does not wait for it if the server leaves without ending it.
        self._process = SPAWN.Process(target=serve, args=(child_end, *arguments), name=name, daemon=True)
        self._process.start()
        child_end.close()  # so that the process's end is seen as the end of the pipe

    @property
    def pid(self) -> int | None:
        """Its id."""
        return self._process.pid

    def wait_loaded(self, wake: Connection, timeout_s: float) -> None:
        """Until it says that it can work, or something comes to `wake`.

        Raises:
            ServiceError: it cannot, has ended, or takes longer than `timeout_s`.
        """
        wait([self.connection, wake], timeout_s)
        message = self.receive() if self.connection.poll() else {"error": "loading took too long"}
        if message is None:
            raise ServiceError("the process ended while it loaded")
        if "error" in message:
            raise ServiceError(message["error"])

    def send(self, message: Mapping[str, Any], *, content: bytes | None = None, end: LinkEnd | None = None) -> None:
        """Send a message, with bytes behind it or the end of a link; any thread may.

        Raises:
            EngineDownError: the process has ended.
        """
        with self._sending:
            try:
                if end is not None:
                    end.send(self.connection, message)
                    return
                self.connection.send_bytes(orjson.dumps(message))
                if content is not None:
                    self.connection.send_bytes(content)
            except OSError as error:  # also when it has been killed, and the connection closed
                raise EngineDownError(f"the process of {self.name} ended; it is being restarted") from error

    def receive(self) -> dict[str, Any] | None:
        """Its next message, None when it has ended; for one thread."""
        content = self.receive_bytes()
        if content is None:
            return None
        message: dict[str, Any] = orjson.loads(content)
        return message

    def receive_bytes(self) -> bytes | None:
        """Bytes behind a message, None when it has ended; for one thread."""
        with suppress(EOFError, OSError):
            return self.connection.recv_bytes()
        return None

    def memory_bytes(self) -> int:
        """Its resident memory."""
        pid = self.pid
        return resident_bytes(pid) if pid is not None else 0

    def kill(self) -> None:
        """End it, if it lives."""
        self._process.kill()
        self._process.join()
        with self._sending:
            self.connection.close()
