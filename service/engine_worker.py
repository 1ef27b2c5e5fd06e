"""The engine process: a loaded graph that runs what comes over its links.

A thread for each link receives, one copies the next batch together, the main one runs batches (and a second one, where
the session lets two), one writes their outputs back, one listens to the server. Messages are small JSON on pipes, and
arrays lie in the slots; nothing is pickled.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from service import artifact
from service.artifact import ArtifactMetadata, Variant
from service.batcher import Batch, Batcher, Item
from service.engine_link import LinkEnd, receive_end
from service.geometry import canvas_sizes
from service.gpu import visible_name
from service.profiles import largest_batch
from service.session import LoadedSession
from service.warm_up import warm_up

Message = dict[str, Any]

_PAIRED_SHARE = 0.25  # of the largest canvas


class Opener(Protocol):
    """A function that loads a variant of the artifact in a folder; raises ServiceError if it cannot."""

    def __call__(
        self, folder: Path, variant: Variant, *, threads: int | None = None, paired_pixels: int = 0
    ) -> LoadedSession:
        """The loaded graph."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What an engine process must know."""

    metadata: ArtifactMetadata
    folder: str
    variant: Variant
    threads: int | None
    gpu: int | None  # number of the GPU that it shall see as its only one
    max_batch: int
    max_batch_pixels: int
    batch_delay_s: float

    @property
    def paired_pixels(self) -> int:
        """Canvases of so many may run two at once: they are small beside what there must be memory for anyway."""
        return int(max(map(math.prod, canvas_sizes(self.metadata.geometry))) * _PAIRED_SHARE)

    def limit(self, height: int, width: int) -> int:
        """The most canvases of (height, width) that run at once; one always may."""
        if self.variant.runtime == "tensorrt":
            return largest_batch(self.metadata.geometry, (height, width))
        return max(1, min(self.max_batch, self.max_batch_pixels // (height * width)))


def serve(server: Connection, config: WorkerConfig, opener: Opener) -> None:
    """Entry point of the engine process: load, say so, then answer until the server closes its pipe or ends."""
    prepare_process("knet-engine")
    if config.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_name(config.gpu)
    try:
        folder = Path(config.folder)
        session = opener(folder, config.variant, threads=config.threads, paired_pixels=config.paired_pixels)
        artifact.verify_file(folder, config.variant)  # afterwards: what was loaded is what was checked
        warm_up(session, config.metadata, config.limit)
    except Exception as error:
        _send(server, {"error": str(error)})
        return
    _send(server, {"loaded": True})
    Worker(server, session, config).run()


def prepare_process(name: str) -> None:
    """Make this process end with its parent and not before, and have the name in lists of processes."""
    with suppress(OSError):  # elsewhere than on Linux
        Path("/proc/self/comm").write_text(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so may SIGTERM; what runs shall be answered
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and SIGHUP, by which the server loads models anew
    threading.Thread(target=_end_with_parent, daemon=True).start()


class Port:
    """The engine's end of a link."""

    def __init__(self, end: LinkEnd) -> None:
        self.slots, self._connection = end.open()
        self.is_open = True

    def receive(self, put: Callable[[Item], None]) -> None:
        """Put what comes until the other end is closed."""
        while True:
            try:
                message = orjson.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                self.is_open = False
                self.slots.close()
                return
            for entry in message["items"]:
                arrays = self.slots.read(entry["arrays"])
                put(Item(owner=self, slot=entry["slot"], arrays=arrays, deadline=entry["deadline"]))

    def reply(self, items: Sequence[Message]) -> None:
        """Say what became of items, if anybody is there to hear it."""
        with suppress(OSError):
            _send(self._connection, {"items": items})

    def waits_for(self, slot: int) -> bool:
        """Whether anybody waits for the outputs of a slot."""
        return self.is_open and not self.slots.is_abandoned(slot)


class Worker:
    """The threads of one engine process and what they share."""

    def __init__(self, server: Connection, session: LoadedSession, config: WorkerConfig) -> None:
        self._server = server
        self._session = session
        self._replies: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._sending = threading.Lock()
        self._begun: dict[Batch, float] = {}  # what runs, and since when
        self._busy_until = 0.0  # up to here the engine's time has been told of
        self._counting = threading.Lock()
        self._batcher = Batcher(
            limit=config.limit,
            drop=lambda items: self._replies.put(lambda: _reply(items, [_dropped(item) for item in items])),
            is_abandoned=lambda item: not item.owner.waits_for(item.slot),
            delay=config.batch_delay_s,
            runs=session.runs_at_once,
            crowd=session.crowd,
        )

    def run(self) -> None:
        """Run batches until the server closes its pipe."""
        for work in (self._listen, self._batcher.fill, self._write_replies):
            self._start(work)
        for _ in range(self._session.runs_at_once - 1):
            self._start(self._run_batches)
        self._run_batches()

    def _run_batches(self) -> None:
        while (batch := self._batcher.take()) is not None:
            with self._counting:
                now = time.monotonic()
                if not self._begun:
                    self._busy_until = now
                self._begun[batch] = now
            self._run_batch(batch)
            del self._begun[batch]
            self._batcher.done(batch)

    def _run_batch(self, batch: Batch) -> None:
        started = time.monotonic()
        try:
            outputs = self._session.run(batch.arrays)
        except Exception as error:
            if len(batch.items) > 1:  # one of them may be to blame: the others shall not suffer
                for position, item in enumerate(batch.items):
                    arrays = {name: array[position : position + 1] for name, array in batch.arrays.items()}
                    self._run_batch(Batch([item], arrays))
                return
            (item,) = batch.items
            text = f"{type(error).__name__}: {error}"
            self._replies.put(lambda: _reply([item], [{"slot": item.slot, "error": text}]))
            return
        ended = time.monotonic()
        with self._counting:  # of two that run at once, each second is one's alone
            busy = ended - self._busy_until
            self._busy_until = ended
        self._replies.put(lambda: self._finish(batch.items, outputs, started, ended, busy))

    def _finish(
        self, items: Sequence[Item], outputs: Mapping[str, NDArray[Any]], started: float, ended: float, busy: float
    ) -> None:
        """Write the outputs of a batch into the slots, and tell whoever waits for them, and the server."""
        described: list[Message] = []
        for position, item in enumerate(items):
            try:
                own = {name: np.asarray(array)[position : position + 1] for name, array in outputs.items()}
                layout = item.owner.slots.write_result(item.slot, own)
            except Exception as error:  # a graph that does not keep the contract
                described.append({"slot": item.slot, "error": f"{type(error).__name__}: {error}"})
            else:
                times = {"waited": started - item.arrived, "seconds": ended - started, "size": len(items)}
                described.append({"slot": item.slot, "arrays": layout, **times})
        _reply(items, described)
        self._tell({"size": len(items), "busy": busy, "waiting": self._batcher.num_waiting})

    def _listen(self) -> None:
        """What the server says: a new link, or a question whether all is well."""
        while True:
            try:
                message = orjson.loads(self._server.recv_bytes())
            except (EOFError, OSError):
                self._batcher.close()
                return
            if "ping" in message:
                now = time.monotonic()
                running = now - min(list(self._begun.values()), default=now)
                self._tell({"pong": running, "waiting": self._batcher.num_waiting})
            else:
                port = Port(receive_end(self._server, message))
                self._start(partial(port.receive, self._batcher.put))

    def _write_replies(self) -> None:
        while True:
            self._replies.get()()

    def _tell(self, message: Message) -> None:
        with self._sending:
            _send(self._server, message)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=self._or_end, args=(work,), daemon=True).start()

    def _or_end(self, work: Callable[[], None]) -> None:
        """Do a thread's work; a process that has lost a thread must end, so that another is started."""
        try:
            work()
        except BrokenPipeError:  # the server is gone, or ends us
            os._exit(0)
        except BaseException as error:
            with suppress(OSError):
                self._tell({"failed": f"{type(error).__name__}: {error}"})
            os._exit(1)


def _reply(items: Sequence[Item], described: Sequence[Message]) -> None:
    """Tell each owner of items what became of its own."""
    owners = dict.fromkeys(item.owner for item in items)
    for owner in owners:
        owner.reply([what for item, what in zip(items, described, strict=True) if item.owner is owner])


def _dropped(item: Item) -> Message:
    return {"slot": item.slot, "dropped": True}


def _end_with_parent() -> None:
    """End at once when the parent has been killed, even inside a run."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(orjson.dumps(message))
