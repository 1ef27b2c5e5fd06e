"""An engine process seen from the server: started, warmed up, watched, restarted, ended; its links are made here."""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from service.artifact import ArtifactMetadata, Variant
from service.engine_link import EngineLink, LinkEnd, make_link
from service.engine_worker import Opener, WorkerConfig, serve
from service.errors import EngineDownError, ServiceError
from service.observer import Observer, Run
from service.own_process import SPAWN, OwnProcess
from service.segmenter import MAX_BATCH, MAX_BATCH_PIXELS
from service.slots import sizes_for
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
    """One replica of a model in a process of its own.

    A crash of the process ends its links, which fails what waits for it, and starts a new one.

    Args:
        metadata: of the artifact.
        folder: of the artifact.
        variants: that can run here, the best first; the next is taken when one cannot be loaded.
        options: of the process.
        opener: what the process loads a variant with; a function of a module.
        observer: is told of each run.
        on_ready: called when a process can answer, before `is_ready` says so: the time to make links to it.
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
        on_ready: Callable[["Engine"], None] = lambda engine: None,
    ) -> None:
        self.label = f"{metadata.name}/{metadata.version}"
        self.state = "is starting"
        self.variant = variants[0]
        self.seconds_per_canvas = 0.0  # a running mean
        self.num_waiting = 0  # canvases, when the process last said so
        self._metadata = metadata
        self._folder = folder
        self._variants = variants
        self._options = options or EngineOptions()
        self._opener = opener
        self._observer = observer or Observer()
        self._on_ready = on_ready
        self._ready = threading.Event()
        self._closing = threading.Event()
        self._wake_reader, self._wake_writer = SPAWN.Pipe(duplex=False)
        self._process: OwnProcess | None = None
        self._heard_at = 0.0  # when the process last said that all is well
        self._supervisor = threading.Thread(target=self._supervise, name=f"engine {self.label}", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Loaded, warmed up and alive."""
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Id of the engine process, None between two."""
        process = self._process
        return process.pid if process is not None else None

    def memory_bytes(self) -> int:
        """Resident memory of the process, 0 between two."""
        process = self._process
        return process.memory_bytes() if process is not None else 0

    def start(self) -> None:
        """Start the process without waiting for it."""
        atexit.register(self._kill)  # it takes no SIGTERM, which is how multiprocessing would end it
        self._supervisor.start()

    def close(self) -> None:
        """End a started engine's process; waits until it is gone."""
        self._closing.set()
        self._wake_writer.send_bytes(b"close")
        self._supervisor.join()
        self._wake_reader.close()
        self._wake_writer.close()
        atexit.unregister(self._kill)

    def make_link(self) -> LinkEnd:
        """The end of a new link, for whoever has images; the process has the other.

        Raises:
            EngineDownError: the process has ended.
        """
        process = self._process
        if process is None:
            raise EngineDownError(f"model {self.label} {self.state}; try again soon")
        # For a batch that runs and the next, and for the tiles that come together.
        one, other = make_link(sizes_for(self._metadata, 2 * max(self._options.max_batch, MAX_BATCH)))
        try:
            process.send({}, end=other)
        except EngineDownError:
            one.close()
            raise
        return one

    def connect(self) -> EngineLink:
        """A new link for this process; raises EngineDownError when the engine is not ready."""
        if not self.is_ready:
            raise EngineDownError(f"model {self.label} {self.state}; try again soon")
        return EngineLink(self.make_link(), label=self.label, timeout_s=self._options.timeout_s)

    def _supervise(self) -> None:
        """Keep a process running until the engine is closed."""
        delay = _FIRST_DELAY_S
        candidates = list(self._variants)
        while not self._closing.is_set():
            self.variant = candidates[0]
            try:
                process = self._launch()
            except (ServiceError, OSError) as error:  # an OSError: no files, memory or processes are left
                self._clean_up()
                if self._closing.is_set():  # which is why it was not loaded
                    return
                if len(candidates) > 1 and isinstance(error, ServiceError):
                    logger.warning("engine %s: not with %s: %s", self.label, self.variant.name, error.detail)
                    candidates = candidates[1:]
                    continue
                self.state = f"did not start: {error}"
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

    def _launch(self) -> OwnProcess:
        """A process that is loaded, warm and linked; raises ServiceError."""
        begin = time.monotonic()
        options = self._options
        config = WorkerConfig(
            metadata=self._metadata,
            folder=str(self._folder),
            variant=self.variant,
            threads=options.threads,
            gpu=options.gpu,
            max_batch=options.max_batch,
            max_batch_pixels=options.max_batch_pixels,
            batch_delay_s=options.batch_delay_s,
        )
        process = self._process = OwnProcess(f"engine {self.label}", serve, config, self._opener)
        process.wait_loaded(self._wake_reader, _LOAD_TIMEOUT_S)
        self._heard_at = time.monotonic()
        self._on_ready(self)
        self._ready.set()
        self.state = "is ready"
        seconds = time.monotonic() - begin
        logger.info(
            "engine %s is ready with %s after %.1f s (pid %s)", self.label, self.variant.name, seconds, self.pid
        )
        return process

    def _watch(self, process: OwnProcess) -> str | None:
        """Hear the process until the engine is closed, or why the process has to be started anew."""
        next_look = time.monotonic() + _WATCH_S
        while not self._closing.is_set():
            wait([process.connection, self._wake_reader], max(0.0, next_look - time.monotonic()))
            if process.connection.poll():
                message = process.receive()
                if message is None:
                    return "its process ended"
                if "failed" in message:
                    return f"its process failed: {message['failed']}"
                if message.get("pong", 0.0) > self._options.timeout_s:
                    return f"a run took longer than {self._options.timeout_s:g} s"
                self._hear(message)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _WATCH_S
                if (reason := self._find_fault(process)) is not None:
                    return reason
        return None

    def _hear(self, message: dict[str, float]) -> None:
        """Of a run, or that all is well."""
        self._heard_at = time.monotonic()
        self.num_waiting = int(message.get("waiting", 0))
        if "size" in message:
            seconds, size = message["busy"], int(message["size"])
            self.seconds_per_canvas += (seconds / size - self.seconds_per_canvas) * _NEW_SHARE
            self._observer.ran(Run(size=size, seconds=seconds))

    def _find_fault(self, process: OwnProcess) -> str | None:
        """Why a process must be ended; None: nothing is wrong, as far as is known, and it is asked again."""
        options = self._options
        if time.monotonic() - self._heard_at > options.timeout_s:
            return f"its process has not answered for {options.timeout_s:g} s"
        if options.memory_bytes is not None and (taken := process.memory_bytes()) > options.memory_bytes:
            return f"its process took {taken:,} bytes of memory, the limit is {options.memory_bytes:,}"
        try:
            process.send({"ping": True})
        except EngineDownError:
            return "its process ended"
        return None

    def _clean_up(self) -> None:
        """End the process, if it lives."""
        self._ready.clear()
        self.num_waiting = 0
        self._kill()
        self._process = None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
