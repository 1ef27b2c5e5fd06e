"""The engine process: a loaded graph behind shared memory.

Arrays travel in one block of shared memory, requests in its first part, results in its second; the pipe carries only
small JSON messages that say where each array lies. Nothing is pickled.
"""

import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import Variant
from service.variants import open_session

_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What an engine process must know: its graph, its threads, and its block of shared memory."""

    folder: str
    variant: Variant
    threads: int | None
    memory_name: str
    request_bytes: int
    result_bytes: int


def serve(connection: Connection, config: WorkerConfig) -> None:
    """Entry point of the engine process: load, say so, then answer until the parent closes the pipe or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    memory = SharedMemory(name=config.memory_name)
    try:
        session = open_session(Path(config.folder), config.variant, threads=config.threads)
    except Exception as error:
        _send(connection, {"error": str(error)})
        return
    _send(connection, {"loaded": True})
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            outputs = session.run(read_arrays(memory, message["arrays"]))
            layout = write_arrays(memory, outputs, config.request_bytes, config.result_bytes)
            _send(connection, {"arrays": layout})
        except Exception as error:  # one request's failure must not end the process
            _send(connection, {"error": f"{type(error).__name__}: {error}"})


def _end_with_parent() -> None:
    """End at once when the parent has been killed, even inside a run."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def write_arrays(
    memory: SharedMemory, arrays: Mapping[str, NDArray[Any]], start: int, capacity: int
) -> list[dict[str, Any]]:
    """Copy arrays into the part of `memory` from `start`; returns where each lies."""
    layout: list[dict[str, Any]] = []
    offset = start
    for name, array in arrays.items():
        if offset + array.nbytes > start + capacity:
            raise ValueError(f"arrays need more than the {capacity} bytes of shared memory set aside")
        view = np.ndarray(array.shape, array.dtype, memory.buf, offset)
        view[...] = array
        layout.append({"name": name, "dtype": array.dtype.str, "shape": array.shape, "offset": offset})
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return layout


def read_arrays(memory: SharedMemory, layout: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Arrays of a layout, as views that are valid until the memory is written again."""
    return {
        str(entry["name"]): np.ndarray(
            tuple(entry["shape"]), np.dtype(entry["dtype"]), memory.buf, int(entry["offset"])
        )
        for entry in layout
    }
