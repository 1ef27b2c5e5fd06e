"""A link to an engine process, for one process that has images: slots that only these two share, and a pipe.

Whoever starts an engine makes its links (`make_link`), and sends each of the two processes its end. A link lasts as
long as both processes: when one ends, the other sees the end of the pipe, and new links have memory of their own, so
that nothing late can be written into what somebody else reads.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.calls import Calls
from service.errors import DeadlineError, EngineDownError, ServiceError
from service.observer import Timings
from service.slots import Slots, SlotSizes, create_memory
from service.ticket import Ticket


@dataclass(frozen=True, kw_only=True)
class LinkEnd:
    """What one of the two processes needs; `memory` and `pipe` are file descriptors that it owns."""

    sizes: SlotSizes
    memory: int
    pipe: int

    def open(self) -> tuple[Slots, Connection]:
        """Use them; they are closed with what is returned."""
        return Slots(self.sizes, self.memory), Connection(self.pipe)

    def send(self, connection: Connection, about: Mapping[str, Any]) -> None:
        """Give it to the process behind a pipe, with words about it; it is closed here."""
        try:
            connection.send_bytes(orjson.dumps({**about, "sizes": asdict(self.sizes)}))
            for file in (self.memory, self.pipe):
                send_handle(connection, file, 0)
        finally:
            self.close()

    def close(self) -> None:
        """Give the descriptors back unused."""
        os.close(self.memory)
        os.close(self.pipe)


def receive_end(connection: Connection, message: Mapping[str, Any]) -> LinkEnd:
    """The end that was sent with a message."""
    memory, pipe = (recv_handle(connection) for _ in range(2))
    return LinkEnd(sizes=SlotSizes(**message["sizes"]), memory=memory, pipe=pipe)


def make_link(sizes: SlotSizes) -> tuple[LinkEnd, LinkEnd]:
    """Both ends of a new link."""
    memory = create_memory(sizes.total_bytes)
    one, other = socket.socketpair()
    return (
        LinkEnd(sizes=sizes, memory=memory, pipe=one.detach()),
        LinkEnd(sizes=sizes, memory=os.dup(memory), pipe=other.detach()),
    )


class EngineLink:
    """The end of whoever has images: a `Session` for any thread, whose canvases may be run with those of others."""

    def __init__(self, end: LinkEnd, *, label: str, timeout_s: float = 120.0) -> None:
        self.label = label
        self._timeout_s = timeout_s
        self._slots, self._connection = end.open()
        self._calls = Calls(self._slots)
        self._sending = threading.Lock()
        self.is_up = True
        self._reader = threading.Thread(target=self._read_replies, name=f"link {label}", daemon=True)
        self._reader.start()

    @property
    def num_pending(self) -> int:
        """Canvases that wait for the engine or run, of this process."""
        return self._calls.num_pending

    def close(self) -> None:
        """End the link, if it has not been; what waits fails."""
        if self._connection.closed:
            return
        self._connection_shutdown()
        self._reader.join()
        self._connection.close()
        self._slots.close()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs for a batch of canvases, which may be run with others."""
        return self.run_timed(inputs, Ticket(self._timeout_s))[0]

    def run_timed(self, inputs: Mapping[str, NDArray[Any]], ticket: Ticket) -> tuple[dict[str, NDArray[Any]], Timings]:
        """Outputs for a batch of canvases, and the longest times of one of them.

        Raises:
            ServiceError: the engine ends, the graph fails, or the ticket is no longer good.
        """
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
            self._send({"items": entries})
            timings = Timings()
            outputs = []
            for call in calls:
                reply = self._calls.collect(call, ticket)
                outputs.append(self._read(reply))
                timings.queue = max(timings.queue, opened - begin + reply["waited"])
                timings.engine = max(timings.engine, reply["seconds"])
                timings.batch_size = max(timings.batch_size, reply["size"])
        finally:
            self._calls.release(calls)
        return _join(outputs), timings

    def _send(self, message: Mapping[str, Any]) -> None:
        data = orjson.dumps(message)
        with self._sending:
            try:
                self._connection.send_bytes(data)
            except OSError as error:
                raise self._ended() from error

    def _read(self, reply: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Outputs of one canvas; copied, as the slot will be used again."""
        if "error" in reply:
            raise ServiceError(f"the model failed: {reply['error']}")
        if "dropped" in reply:
            raise DeadlineError("the deadline of this request passed while it waited for the engine")
        return {name: np.array(view) for name, view in self._slots.read(reply["arrays"]).items()}

    def _read_replies(self) -> None:
        while True:
            try:
                message = orjson.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                self.is_up = False
                self._calls.down(self._ended())
                return
            self._calls.resolve(message["items"])

    def _connection_shutdown(self) -> None:
        """Wake the reader, here and in the engine process."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as pipe, suppress(OSError):  # it has ended already
            pipe.shutdown(socket.SHUT_RDWR)

    def _ended(self) -> EngineDownError:
        return EngineDownError(f"the engine process of {self.label} ended; it is being restarted")


class LinkedSession:
    """Links to a model's replicas as one session for one image: the one with least to do runs; times are added up."""

    def __init__(self, links: Sequence[EngineLink], ticket: Ticket) -> None:
        self._links = links
        self._ticket = ticket
        self.timings = Timings()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs for a batch of canvases; raises ServiceError."""
        self._ticket.check()
        living = [link for link in self._links if link.is_up]
        if not living:
            raise EngineDownError("no engine of this model is ready; try again soon")
        link = min(living, key=lambda link: link.num_pending)
        outputs, timings = link.run_timed(inputs, self._ticket)
        self.timings.queue += timings.queue
        self.timings.engine += timings.engine
        self.timings.batch_size = max(self.timings.batch_size, timings.batch_size)
        return outputs


def _join(outputs: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Outputs of several canvases as those of a batch."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}
