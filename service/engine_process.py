"""One run of an engine process, seen from the server: its pipe, its memory, its end."""

import json
import multiprocessing
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

from service.engine_worker import Opener, WorkerConfig, serve
from service.errors import EngineDownError, ServiceError
from service.memory import resident_bytes
from service.slots import Slots

SPAWN = multiprocessing.get_context("spawn")  # no fork: a forked child would share locks with running threads


class EngineProcess:
    """A process that loads a variant and answers messages until it is killed.

    Args:
        name: of the process, for people.
        slots: the memory that it shares with the server.
        config: what it runs.
        opener: what it loads the variant with.
    """

    def __init__(self, name: str, slots: Slots, config: WorkerConfig, opener: Opener) -> None:
        self._name = name
        self._sending = threading.Lock()
        self.connection, child_end = SPAWN.Pipe()
        arguments = (child_end, slots.share(), config, opener)
        # A daemon: multiprocessing does not wait for it if the server leaves without closing its engines.
        self._process = SPAWN.Process(target=serve, args=arguments, name=name, daemon=True)
        self._process.start()
        child_end.close()  # so that the process's end is seen as the end of the pipe

    @property
    def pid(self) -> int | None:
        """Its id."""
        return self._process.pid

    def wait_loaded(self, wake: Connection, timeout_s: float) -> None:
        """Until it is loaded and warm, or something comes to `wake`.

        Raises:
            ServiceError: it cannot load, has ended, or takes longer than `timeout_s`.
        """
        wait([self.connection, wake], timeout_s)
        message = self.receive() if self.connection.poll() else {"error": "loading took too long"}
        if message is None:
            raise ServiceError("the engine process ended while it loaded")
        if "error" in message:
            raise ServiceError(message["error"])

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; raises EngineDownError when it has ended. Any thread may."""
        data = json.dumps(message).encode()
        with self._sending:
            try:
                self.connection.send_bytes(data)
            except OSError as error:  # also when it has been killed, and the connection closed
                raise EngineDownError(f"the process of {self._name} ended; it is being restarted") from error

    def receive(self) -> dict[str, Any] | None:
        """Its next message, None when it has ended; for one thread."""
        try:
            message: dict[str, Any] = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return message

    def memory_bytes(self) -> int:
        """Its resident memory."""
        pid = self.pid
        return resident_bytes(pid) if pid is not None else 0

    def kill(self) -> None:
        """End it, if it lives; it does not touch the slots any more afterwards."""
        self._process.kill()
        self._process.join()
        with self._sending:
            self.connection.close()
