"""An engine process seen from the server: started, warmed up, fed, watched, restarted, ended."""

import atexit
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata, Variant
from service.calls import Calls
from service.engine_process import SPAWN, EngineProcess
from service.engine_worker import Opener, WorkerConfig
from service.errors import DeadlineError, EngineDownError, ServiceError
from service.observer import Observer, Run, Timings
from service.segmenter import MAX_BATCH, MAX_BATCH_PIXELS
from service.slots import Slots, create_memory, sizes_for
from service.ticket import Ticket
from service.variants import open_session

logger = logging.getLogger("knet.engine")

_LOAD_TIMEOUT_S = 300.0
_WATCH_S = 1.0  # between looks at a process' memory and progress
_NEW_SHARE = 0.1  # of the last run in the running mean of seconds
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 30.0


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine process runs.

    `threads`: None: the CPUs that may be used. `timeout_s`: without progress for so long it counts as hung.
    `memory_bytes`: a process that has more is started anew. `gpu`: number of the GPU it is bound to.
    """

    threads: int | None = None
    timeout_s: float = 120.0
    max_batch: int = 8
    max_batch_pixels: int = MAX_BATCH_PIXELS
    batch_delay_s: float = 0.0
    memory_bytes: int | None = None
    gpu: int | None = None


class Engine:
    """One replica of a model in a process of its own; a `Session` for any thread.

    A crash of the process fails the requests that wait for it (EngineDownError) and starts a new one.

    Args:
        metadata: of the artifact.
        folder: of the artifact.
        variants: that can run here, the best first; the next is taken when one cannot be loaded.
        options: of the process.
        opener: what the process loads a variant with; a function of a module.
        observer: is told of each run.
    """

    def __init__(
        self,
        metadata: ArtifactMetadata,
        folder: Path,
        variants: Sequence[Variant],
        options: EngineOptions | None = None,
        *,
        opener: Opener = open_session,
        observer: Observer | None = None,
    ) -> None:
        self.label = f"{metadata.name}/{metadata.version}"
        self.state = "is starting"
        self.variant = variants[0]
        self._metadata = metadata
        self._folder = folder
        self._variants = variants
        self._options = options or EngineOptions()
        self._opener = opener
        self._observer = observer or Observer()
        # For a batch that runs and the next, and for the tiles that come together.
        sizes = sizes_for(metadata, 2 * max(self._options.max_batch, MAX_BATCH))
        self._slots = Slots(sizes, create_memory(sizes.total_bytes))
        self._calls = Calls(self._slots)
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._wake_reader, self._wake_writer = SPAWN.Pipe(duplex=False)
        self._process: EngineProcess | None = None
        self._supervisor = threading.Thread(target=self._supervise, name=f"engine {self.label}", daemon=True)
        self._seconds_per_canvas = 0.0  # a running mean

    @property
    def is_ready(self) -> bool:
        """Loaded, warmed up and alive."""
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Id of the engine process, None between two."""
        process = self._process
        return process.pid if process is not None else None

    @property
    def num_pending(self) -> int:
        """Canvases that wait for it or run."""
        return self._calls.num_pending

    @property
    def expected_wait_s(self) -> float:
        """Seconds until what waits now is done, as far as the last runs tell."""
        return self._calls.num_pending * self._seconds_per_canvas

    def memory_bytes(self) -> int:
        """Resident memory of the process, 0 between two."""
        process = self._process
        return process.memory_bytes() if process is not None else 0

    def start(self) -> None:
        """Start the process without waiting for it."""
        atexit.register(self._kill)  # it takes no SIGTERM, which is how multiprocessing would end it
        self._supervisor.start()

    def close(self) -> None:
        """End a started engine's process and release the shared memory; waits until both are gone."""
        self._closing.set()
        self._wake_writer.send_bytes(b"close")
        self._supervisor.join()
        self._slots.close()
        self._wake_reader.close()
        self._wake_writer.close()
        atexit.unregister(self._kill)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs for a batch of canvases, which may be run with others."""
        return self.run_timed(inputs, Ticket(self._options.timeout_s))[0]

    def run_timed(self, inputs: Mapping[str, NDArray[Any]], ticket: Ticket) -> tuple[dict[str, NDArray[Any]], Timings]:
        """Outputs for a batch of canvases, and the longest times of one of them.

        Raises:
            ServiceError: the engine is down or ends, the graph fails, or the ticket is no longer good.
        """
        if not self._ready.is_set():
            raise EngineDownError(f"model {self.label} {self.state}; try again soon")
        return self._exchange(inputs, ticket)

    def _exchange(self, inputs: Mapping[str, NDArray[Any]], ticket: Ticket) -> tuple[dict[str, NDArray[Any]], Timings]:
        begin = time.monotonic()
        calls = self._calls.open(len(inputs["image"]), ticket)
        opened = time.monotonic()
        try:
            entries = [
                {
                    "slot": call.slot,
                    "arrays": self._slots.write_request(call.slot, {n: a[i : i + 1] for n, a in inputs.items()}),
                    "deadline": ticket.deadline,
                }
                for i, call in enumerate(calls)
            ]
            self._calls.begin(calls)
            process = self._process
            if process is None:
                raise EngineDownError(f"the engine process of {self.label} ended; it is being restarted")
            process.send({"items": entries})
            replies = [self._calls.collect(call, ticket) for call in calls]
            timings = Timings()
            outputs = []
            for reply in replies:
                outputs.append(self._read(reply))
                timings.queue = max(timings.queue, opened - begin + reply["waited"])
                timings.engine = max(timings.engine, reply["seconds"])
                timings.batch_size = max(timings.batch_size, reply["size"])
        finally:
            self._calls.release(calls)
        return _join(outputs), timings

    def _read(self, reply: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Outputs of one canvas; copied, as the slot will be used again."""
        if "error" in reply:
            raise ServiceError(f"the model failed: {reply['error']}")
        if "dropped" in reply:
            raise DeadlineError("the deadline of this request passed while it waited for the engine")
        return {name: np.array(view) for name, view in self._slots.read(reply["arrays"]).items()}

    def _supervise(self) -> None:
        """Keep a process running until the engine is closed."""
        delay = _FIRST_DELAY_S
        candidates = list(self._variants)
        while not self._closing.is_set():
            self.variant = candidates[0]
            try:
                process = self._launch()
            except ServiceError as error:
                self._clean_up()
                if len(candidates) > 1:
                    logger.warning("engine %s: not with %s: %s", self.label, self.variant.name, error.detail)
                    candidates = candidates[1:]
                    continue
                self.state = f"did not start: {error.detail}"
                candidates = list(self._variants)
            else:
                delay = _FIRST_DELAY_S
                reason = self._watch(process)
                self.state = f"is restarting: {reason}"
                self._clean_up()
                if reason is not None:
                    self._observer.restarted()
            if not self._closing.is_set():
                logger.error("engine %s %s; next attempt in %.1f s", self.label, self.state, delay)
                self._closing.wait(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)

    def _launch(self) -> EngineProcess:
        """A process that is loaded and warm; raises ServiceError."""
        begin = time.monotonic()
        options = self._options
        config = WorkerConfig(
            metadata=self._metadata,
            folder=str(self._folder),
            variant=self.variant,
            threads=options.threads,
            gpu=options.gpu,
            slots=self._slots.sizes,
            max_batch=options.max_batch,
            max_batch_pixels=options.max_batch_pixels,
            batch_delay_s=options.batch_delay_s,
        )
        process = self._process = EngineProcess(f"engine {self.label}", self._slots, config, self._opener)
        process.wait_loaded(self._wake_reader, _LOAD_TIMEOUT_S)
        self._calls.up()
        self._ready.set()
        self.state = "is ready"
        seconds = time.monotonic() - begin
        logger.info(
            "engine %s is ready with %s after %.1f s (pid %s)", self.label, self.variant.name, seconds, self.pid
        )
        return process

    def _watch(self, process: EngineProcess) -> str | None:
        """Hand replies on until the engine is closed, or why the process has to be started anew."""
        next_look = time.monotonic() + _WATCH_S
        while not self._closing.is_set():
            wait([process.connection, self._wake_reader], max(0.0, next_look - time.monotonic()))
            if process.connection.poll():
                message = process.receive()
                if message is None:
                    return "its process ended"
                if "failed" in message:
                    return f"its process failed: {message['failed']}"
                self._hand_on(message)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _WATCH_S
                if (reason := self._find_fault(process)) is not None:
                    return reason
        return None

    def _hand_on(self, message: Mapping[str, Any]) -> None:
        """A reply of the process: to its calls, and to those who count."""
        seconds, size = message.get("seconds", 0.0), message.get("size", 0)
        self._calls.resolve({**item, "seconds": seconds, "size": size} for item in message["items"])
        if size:
            self._seconds_per_canvas += (seconds / size - self._seconds_per_canvas) * _NEW_SHARE
            self._observer.ran(Run(size=size, seconds=seconds))

    def _find_fault(self, process: EngineProcess) -> str | None:
        """Why a process must be ended; None: nothing is wrong."""
        options = self._options
        if self._calls.num_pending and time.monotonic() - self._calls.since > options.timeout_s:
            return f"a run took longer than {options.timeout_s:g} s"
        if options.memory_bytes is not None and (taken := process.memory_bytes()) > options.memory_bytes:
            return f"its process took {taken:,} bytes of memory, the limit is {options.memory_bytes:,}"
        return None

    def _clean_up(self) -> None:
        """End the process, if it lives, and fail what waits for it."""
        self._ready.clear()
        self._kill()
        # Only now, as a process that lives may still write into the slots.
        self._calls.down(EngineDownError(f"the engine process of {self.label} ended; it is being restarted"))
        self._process = None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()


def _join(outputs: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Outputs of several canvases as those of a batch."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}
