"""The engine process: a loaded graph that runs what the server has put into the slots.

Four threads: one receives, one copies the next batch together, the main one runs batches, one writes their outputs
back. Messages are small JSON on a pipe, arrays lie in the slots; nothing is pickled.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service import artifact
from service.artifact import ArtifactMetadata, Variant
from service.batcher import Batch, Batcher, Item
from service.gpu import visible_name
from service.profiles import largest_batch
from service.session import Session
from service.slots import Slots, SlotSizes
from service.warm_up import warm_up

Reply = dict[str, Any]


class Opener(Protocol):
    """A function that loads a variant of the artifact in a folder; raises ServiceError if it cannot."""

    def __call__(self, folder: Path, variant: Variant, *, threads: int | None = None) -> Session:
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
    slots: SlotSizes
    max_batch: int
    max_batch_pixels: int
    batch_delay_s: float

    def limit(self, height: int, width: int) -> int:
        """The most canvases of (height, width) that run at once; one always may."""
        if self.variant.runtime == "tensorrt":
            return largest_batch(self.metadata.geometry, (height, width))
        return max(1, min(self.max_batch, self.max_batch_pixels // (height * width)))


def serve(connection: Connection, memory: Any, config: WorkerConfig, opener: Opener) -> None:
    """Entry point of the engine process: load, say so, then answer until the parent closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so may SIGTERM; what runs shall be answered
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if config.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_name(config.gpu)
    slots = Slots(config.slots, memory.detach())
    try:
        folder = Path(config.folder)
        session = opener(folder, config.variant, threads=config.threads)
        artifact.verify_file(folder, config.variant)  # afterwards: what was loaded is what was checked
        warm_up(session, config.metadata, config.limit)
    except Exception as error:
        _send(connection, {"error": str(error)})
        return
    _send(connection, {"loaded": True})
    Worker(connection, slots, session, config).run()


class Worker:
    """The threads of one engine process and what they share."""

    def __init__(self, connection: Connection, slots: Slots, session: Session, config: WorkerConfig) -> None:
        self._connection = connection
        self._slots = slots
        self._session = session
        self._replies: SimpleQueue[Callable[[], Reply]] = SimpleQueue()
        self._batcher = Batcher(
            limit=config.limit,
            drop=lambda items: self._replies.put(lambda: {"items": [_dropped(item) for item in items]}),
            is_abandoned=slots.is_abandoned,
            delay=config.batch_delay_s,
        )

    def run(self) -> None:
        """Run batches until the pipe is closed."""
        for work in (self._receive, self._batcher.fill, self._reply):
            threading.Thread(target=self._or_end, args=(work,), name=work.__name__, daemon=True).start()
        while (batch := self._batcher.take()) is not None:
            self._run_batch(batch)

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
            self._replies.put(lambda: {"items": [{"slot": item.slot, "error": text}]})
            return
        seconds = time.monotonic() - started
        self._replies.put(lambda: self._describe(batch.items, outputs, started, seconds))

    def _describe(
        self, items: Sequence[Item], outputs: Mapping[str, NDArray[Any]], started: float, seconds: float
    ) -> Reply:
        """The reply to a batch, its outputs written into the slots."""
        described = []
        for position, item in enumerate(items):
            try:
                own = {name: np.asarray(array)[position : position + 1] for name, array in outputs.items()}
                layout = self._slots.write_result(item.slot, own)
            except Exception as error:  # a graph that does not keep the contract
                described.append({"slot": item.slot, "error": f"{type(error).__name__}: {error}"})
            else:
                described.append({"slot": item.slot, "arrays": layout, "waited": started - item.arrived})
        return {"items": described, "size": len(items), "seconds": seconds}

    def _receive(self) -> None:
        while True:
            try:
                message = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                self._batcher.close()
                return
            for entry in message["items"]:
                arrays = self._slots.read(entry["arrays"])
                self._batcher.put(Item(slot=entry["slot"], arrays=arrays, deadline=entry["deadline"]))

    def _reply(self) -> None:
        while True:
            make = self._replies.get()
            _send(self._connection, make())

    def _or_end(self, work: Callable[[], None]) -> None:
        """Do a thread's work; a process that has lost a thread must end, so that another is started."""
        try:
            work()
        except BrokenPipeError:  # the parent is gone, or ends us
            os._exit(0)
        except BaseException as error:
            with suppress(OSError):
                _send(self._connection, {"failed": f"{type(error).__name__}: {error}"})
            os._exit(1)


def _dropped(item: Item) -> Reply:
    return {"slot": item.slot, "dropped": True}


def _end_with_parent() -> None:
    """End at once when the parent has been killed, even inside a run."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())
