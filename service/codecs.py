"""The codec processes of a server: started, fed, linked with engines, restarted when one ends, ended."""

import asyncio
import atexit
import itertools
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.codec import Answered, CodecLimits
from service.codec_worker import serve
from service.engine import Engine
from service.errors import CodecDownError, EngineDownError, ServiceError, error_of
from service.own_process import SPAWN, OwnProcess
from service.ticket import Ticket

logger = logging.getLogger("knet.codec")

_START_S = 120.0
_DELAY_S = 0.2
_LOOK_S = 1.0
_HUNG_S = 60.0  # after an image's deadline, which is looked at between steps: no step takes so long


@dataclass(kw_only=True, eq=False)
class _Served:
    """A model that codecs know by its number."""

    number: int
    metadata: ArtifactMetadata
    threads: int
    engines: list[Engine] = field(default_factory=list)  # that can be linked with


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request's image that a codec has. An error is a result, too: nobody may wait for it any more."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Answered | ServiceError]"


class Codecs:
    """`count` processes; each new image goes to the one that has fewest.

    A process that ends fails its images (CodecDownError), and another is started and linked with all engines. One that
    owes an answer for `_HUNG_S` after its deadline is ended.
    """

    def __init__(self, count: int, limits: CodecLimits) -> None:
        self._numbers = itertools.count(1)
        self._linking = threading.Lock()  # of a model, an engine or a process that comes or goes
        self._served: dict[int, _Served] = {}
        self._seats = [_Seat(number, limits, self._introduce) for number in range(count)]

    @property
    def count(self) -> int:
        """Processes, ready or not."""
        return len(self._seats)

    def start(self) -> None:
        """Start the processes without waiting for them."""
        for seat in self._seats:
            seat.start()

    def close(self) -> None:
        """End the processes."""
        for seat in self._seats:
            seat.end()
        for seat in self._seats:  # of which one may have waited for another
            seat.close()

    @property
    def num_ready(self) -> int:
        """Processes that take images."""
        return sum(seat.is_ready for seat in self._seats)

    def memory_bytes(self) -> int:
        """Resident memory of all."""
        return sum(seat.memory_bytes() for seat in self._seats)

    def add_model(self, metadata: ArtifactMetadata, *, threads: int) -> int:
        """Make a model known; its number is what the others here want. `threads`: images of it that one works on."""
        with self._linking:
            served = _Served(number=next(self._numbers), metadata=metadata, threads=threads)
            self._served[served.number] = served
            for seat in self._seats:
                seat.tell(_about(served))
            return served.number

    def add_engine(self, number: int, engine: Engine) -> None:
        """Link every process with an engine of a model that has a new process."""
        with self._linking:
            if (served := self._served.get(number)) is None:  # it was removed while its engine started
                return
            served.engines = [each for each in served.engines if each is not engine] + [engine]
            for seat in self._seats:
                seat.link(served, engine)

    def remove_model(self, number: int) -> None:
        """Forget a model."""
        with self._linking:
            del self._served[number]
            for seat in self._seats:
                seat.tell({"forget": number})

    async def answer(self, data: bytes, number: int, wish: Wish, ticket: Ticket) -> Answered:
        """Answer for one image file; raises ServiceError. A cancelled ticket ends the work, wherever it is."""
        ready = [seat for seat in self._seats if seat.is_ready]
        if not ready:
            raise CodecDownError("no process that decodes images is ready; try again soon")
        seat = min(ready, key=lambda seat: seat.num_jobs)
        return await seat.answer(data, number, wish, ticket)

    def _introduce(self, seat: "_Seat") -> None:
        """Tell a new process of all models and engines; called before it takes images."""
        with self._linking:
            seat.is_introduced = True
            for served in self._served.values():
                seat.tell(_about(served))
                for engine in served.engines:
                    seat.link(served, engine)
            seat.is_ready = True


class _Seat:
    """A place for one process after the other."""

    def __init__(self, number: int, limits: CodecLimits, introduce: Any) -> None:
        self.is_introduced = False  # it is told of what comes and goes
        self.is_ready = False  # it takes images
        self._name = f"codec {number}"
        self._limits = limits
        self._introduce = introduce
        self._jobs: dict[int, _Job] = {}
        self._owed: dict[int, float] = {}  # deadlines of what was handed over and not answered, awaited or not
        self._job_numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._process: OwnProcess | None = None
        self._wake_reader, self._wake_writer = SPAWN.Pipe(duplex=False)
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=self._name)  # a large body may wait for its reader
        self._supervisor = threading.Thread(target=self._supervise, name=self._name, daemon=True)

    @property
    def num_jobs(self) -> int:
        """Images that it has or will have."""
        return len(self._jobs.keys() | self._owed.keys())

    def memory_bytes(self) -> int:
        """Resident memory of the process, 0 between two."""
        process = self._process
        return process.memory_bytes() if process is not None else 0

    def start(self) -> None:
        """Start a process without waiting for it."""
        atexit.register(self._kill)
        self._supervisor.start()

    def end(self) -> None:
        """End the process, for good."""
        self._closing.set()
        self._kill()

    def close(self) -> None:
        """Wait until it is gone."""
        self.end()
        self._wake_writer.send_bytes(b"close")
        self._supervisor.join()
        self._sender.shutdown()
        self._wake_reader.close()
        self._wake_writer.close()
        atexit.unregister(self._kill)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message, if there is a process; a new one is told anew."""
        process = self._process
        if process is not None and self.is_introduced:
            with suppress(EngineDownError):
                process.send(message)

    def link(self, served: _Served, engine: Engine) -> None:
        """Link the process, if there is one, with an engine, if it lives."""
        process = self._process
        if process is not None and self.is_introduced:
            with suppress(EngineDownError):
                process.send({"link": served.number, "label": engine.label}, end=engine.make_link())

    async def answer(self, data: bytes, number: int, wish: Wish, ticket: Ticket) -> Answered:
        """See `Codecs.answer`."""
        loop = asyncio.get_running_loop()
        job = _Job(loop=loop, future=loop.create_future())
        key = next(self._job_numbers)
        with self._lock:
            process = self._process
            if process is None or not self.is_ready:
                raise self._down()
            self._jobs[key] = job
        message = {
            "job": key,
            "model": number,
            "wish": wish.to_json(),
            "deadline": ticket.deadline,
            "begin": time.perf_counter(),
        }
        try:
            with ticket.watched(lambda error: self._cancel(process, key)):
                await loop.run_in_executor(self._sender, self._hand_over, process, message, data)
                outcome = await job.future
        finally:
            self._jobs.pop(key, None)
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    def _hand_over(self, process: OwnProcess, message: dict[str, Any], data: bytes) -> None:
        """In the sender's thread; never for an image that is cancelled before its turn."""
        with self._lock:
            if process is not self._process:
                raise self._down()
            self._owed[message["job"]] = message["deadline"]
        try:
            process.send(message, content=data)
        except EngineDownError as error:
            raise self._down() from error

    def _cancel(self, process: OwnProcess, key: int) -> None:
        """Tell the process that nobody waits; in the order of what it was told before."""

        def send() -> None:
            with suppress(EngineDownError):
                process.send({"cancel": key})

        with suppress(RuntimeError):  # it has been closed
            self._sender.submit(send)

    def _supervise(self) -> None:
        while not self._closing.is_set():
            try:
                process = self._process = OwnProcess(self._name, serve, self._limits)
                process.wait_loaded(self._wake_reader, _START_S)
                self._introduce(self)
                logger.info("%s is ready (pid %s)", self._name, process.pid)
                self._hear(process)
            except (ServiceError, OSError) as error:  # an OSError: no files, memory or processes are left
                if not self._closing.is_set():  # which would be why
                    logger.error("%s did not start: %s", self._name, error)
            self._clean_up()
            if not self._closing.is_set():
                logger.error("%s ended; it is started anew", self._name)
                self._closing.wait(_DELAY_S)

    def _hear(self, process: OwnProcess) -> None:
        """Hand answers on until the process ends, or has to be ended."""
        while not self._is_hung():
            if not process.connection.poll(_LOOK_S):
                continue
            if (message := process.receive()) is None:
                return
            content: bytes | None = b""
            if "media_type" in message:
                content = process.receive_bytes()
            if content is None:
                return
            key = message.pop("job")
            self._owed.pop(key, None)
            job = self._jobs.get(key)
            if job is not None:
                with suppress(RuntimeError):  # its loop has ended
                    job.loop.call_soon_threadsafe(_settle, job.future, _outcome(message, content))
        logger.error("%s has not answered for %g s after a deadline", self._name, _HUNG_S)

    def _is_hung(self) -> bool:
        """By the image that it has had longest: later ones may wait for it, whatever their deadlines."""
        return next(iter(self._owed.copy().values()), math.inf) + _HUNG_S < time.monotonic()

    def _clean_up(self) -> None:
        with self._lock:
            self.is_ready = self.is_introduced = False
            process, self._process = self._process, None
            jobs = list(self._jobs.values())
            self._owed.clear()
        if process is not None:
            process.kill()
        for job in jobs:
            with suppress(RuntimeError):
                job.loop.call_soon_threadsafe(_settle, job.future, self._down())

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def _down(self) -> CodecDownError:
        return CodecDownError("the process that worked on the image ended; it is started anew: try again")


def _about(served: _Served) -> dict[str, Any]:
    metadata = served.metadata.model_dump(mode="json")
    return {"model": served.number, "threads": served.threads, "metadata": metadata}


def _outcome(message: dict[str, Any], content: bytes) -> Answered | ServiceError:
    """What a process says of an image."""
    if "error" in message:
        return error_of(message["error"], message["detail"])
    if "crash" in message:
        return ServiceError(message["crash"])
    message["stages"] = tuple(tuple(stage) for stage in message["stages"])
    message["image_size"] = tuple(message["image_size"])
    return Answered(content=content, **message)


def _settle(future: "asyncio.Future[Answered | ServiceError]", outcome: Answered | ServiceError) -> None:
    if not future.done():
        future.set_result(outcome)
