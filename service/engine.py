"""An engine process seen from the server: started, warmed up, watched, restarted, ended."""

import json
import logging
import multiprocessing
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata, Variant
from service.engine_worker import WorkerConfig, read_arrays, serve, write_arrays
from service.errors import EngineDownError, ServiceError
from service.geometry import common_sizes
from service.segmenter import MAX_BATCH, Segmenter

logger = logging.getLogger("knet.engine")

_SPAWN = multiprocessing.get_context("spawn")  # no fork: a forked child would share locks with running threads
_LOAD_TIMEOUT_S = 300.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 30.0


class Engine:
    """One replica of a model in a process of its own; a `Session` for any thread, one run at a time.

    A crash of the process fails the requests that wait for it (EngineDownError) and starts a new one.
    """

    def __init__(
        self,
        metadata: ArtifactMetadata,
        folder: Path,
        variant: Variant,
        *,
        threads: int | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.label = f"{metadata.name}/{metadata.version}"
        self.state = "is starting"
        self._metadata = metadata
        self._folder = folder
        self._variant = variant
        self._threads = threads
        self._timeout_s = timeout_s
        self._request_bytes, self._result_bytes = _capacity(metadata)
        self._lock = threading.Lock()  # guards the pipe and the shared memory
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._wake_reader, self._wake_writer = _SPAWN.Pipe(duplex=False)
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._supervisor = threading.Thread(target=self._supervise, name=f"engine {self.label}", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Loaded, warmed up and alive."""
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Id of the engine process, None between two."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process without waiting for it."""
        self._memory = SharedMemory(create=True, size=self._request_bytes + self._result_bytes)
        self._supervisor.start()

    def close(self) -> None:
        """End a started engine's process and release the shared memory; waits until both are gone."""
        self._closing.set()
        self._wake_writer.send_bytes(b"close")
        self._supervisor.join()
        self._memory.close()
        self._memory.unlink()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once; waits for the runs before it."""
        return self.run_timed(inputs)[0]

    def run_timed(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float, float]:
        """Outputs, and the seconds spent waiting and running."""
        begin = time.perf_counter()
        with self._lock:
            if not self._ready.is_set():
                raise EngineDownError(f"model {self.label} {self.state}; try again soon")
            started = time.perf_counter()
            outputs = self._exchange(inputs)
        return outputs, started - begin, time.perf_counter() - started

    def _exchange(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One request to the process and its result; call with the lock held."""
        connection, process = self._connection, self._process
        assert connection is not None
        assert process is not None
        try:
            layout = write_arrays(self._memory, inputs, 0, self._request_bytes)
            connection.send_bytes(json.dumps({"arrays": layout}).encode())
            if not connection.poll(self._timeout_s):
                self._ready.clear()
                process.kill()
                raise EngineDownError(f"model {self.label} took longer than {self._timeout_s} s and was restarted")
            message = json.loads(connection.recv_bytes())
        except (EOFError, OSError) as error:
            self._ready.clear()
            raise EngineDownError(f"the engine process of {self.label} ended; it is being restarted") from error
        if "error" in message:
            raise ServiceError(f"the model failed: {message['error']}")
        # Copied, as the next run overwrites the memory.
        return {name: np.array(view) for name, view in read_arrays(self._memory, message["arrays"]).items()}

    def _supervise(self) -> None:
        delay = _FIRST_DELAY_S
        while not self._closing.is_set():
            try:
                self._launch()
            except ServiceError as error:
                self.state = f"did not start: {error.detail}"
            else:
                delay = _FIRST_DELAY_S
                self._wait_for(self._sentinel())
                self.state = "is restarting"
            self._clean_up()
            if not self._closing.is_set():
                logger.error("engine %s %s; next attempt in %.1f s", self.label, self.state, delay)
                self._closing.wait(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)

    def _launch(self) -> None:
        """Start a process, wait until it has loaded the graph, warm it up."""
        begin = time.perf_counter()
        config = WorkerConfig(
            folder=str(self._folder),
            variant=self._variant,
            threads=self._threads,
            memory_name=self._memory.name,
            request_bytes=self._request_bytes,
            result_bytes=self._result_bytes,
        )
        connection, child_end = _SPAWN.Pipe()
        # A daemon: ended by multiprocessing if the server leaves without closing its engines.
        process = _SPAWN.Process(target=serve, args=(child_end, config), name=f"engine {self.label}", daemon=True)
        process.start()
        child_end.close()  # so that the process's end is seen as the end of the pipe
        self._process, self._connection = process, connection
        self._wait_for(connection, timeout=_LOAD_TIMEOUT_S)
        try:
            message = json.loads(connection.recv_bytes()) if connection.poll() else {"error": "loading took too long"}
        except (EOFError, OSError):
            message = {"error": "the engine process ended while it loaded"}
        if "error" in message:
            raise ServiceError(message["error"])
        self._warm_up()
        self._ready.set()
        self.state = "is ready"
        logger.info("engine %s is ready after %.1f s (pid %s)", self.label, time.perf_counter() - begin, self.pid)

    def _warm_up(self) -> None:
        """One run of each common canvas size: the first run of a shape is slow."""
        segmenter = Segmenter(self._metadata, _Unlocked(self))
        for height, width in common_sizes(self._metadata.geometry):
            if self._closing.is_set():
                return
            try:
                segmenter.segment(np.zeros((height, width, 3), np.uint8))
            except ServiceError:
                raise
            except Exception as error:  # a graph that does not keep the contract fails in any way
                raise ServiceError(f"warm-up failed: {type(error).__name__}: {error}") from error

    def _wait_for(self, waitable: Any, timeout: float | None = None) -> None:
        """Until `waitable` is, or the engine is closed."""
        wait([waitable, self._wake_reader], timeout)

    def _sentinel(self) -> int:
        assert self._process is not None
        return self._process.sentinel

    def _clean_up(self) -> None:
        """End the process, if it lives, and forget it."""
        self._ready.clear()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        with self._lock:  # a run in progress ends first: it sees the end of the pipe
            if self._connection is not None:
                self._connection.close()
            self._process = self._connection = None


class _Unlocked:
    """The engine before it is ready, for its own warm-up: nobody else uses the pipe yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._engine._exchange(inputs)


def _capacity(metadata: ArtifactMetadata) -> tuple[int, int]:
    """Bytes of the largest request and result: a full batch of the largest canvas."""
    height, width = metadata.geometry.largest_canvas
    batch = MAX_BATCH if metadata.geometry.mode == "tile" else 1
    cells = (height // metadata.output_stride) * (width // metadata.output_stride)
    if metadata.kind == "instance":
        # Three numbers for each entry, of which there are at most as many as pairs of a mask and a class.
        numbers = metadata.num_slots * (cells + 3 * len(metadata.categories))
    else:
        numbers = (2 if metadata.confidence else 1) * cells + 8 * metadata.num_slots
    slack = 4096  # alignment, and the small arrays
    return batch * height * width * 3 + slack, 4 * batch * numbers + slack
