"""A codec process: decodes images, feeds engines over its own links, encodes answers. Nothing is pickled.

A decoder that crashes takes this process along and nothing else, and the interpreters of several such processes do not
wait for each other.
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import orjson

from service.allocator import keep_freed_memory
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.codec import Answered, Codec, CodecLimits
from service.engine_link import EngineLink, receive_end
from service.engine_worker import prepare_process
from service.errors import ClientLeftError, EngineDownError, ServiceError
from service.ticket import Ticket

Message = dict[str, Any]


@dataclass(kw_only=True)
class _Known:
    """A model that this process has heard of."""

    metadata: ArtifactMetadata
    threads: ThreadPoolExecutor
    links: list[EngineLink] = field(default_factory=list)


def serve(server: Connection, limits: CodecLimits) -> None:
    """Entry point of the process: work until the server closes its pipe or ends."""
    prepare_process("knet-codec")
    _quiet_libraries()
    keep_freed_memory()
    CodecWorker(server, Codec(limits)).run()


def _quiet_libraries() -> None:
    """Nowhere for libraries in C to print to, which have a line for each fault of an image; Python goes on as before.

    The lines of one file may be thousands, are no records of the log, and would wait for whoever should read them.
    """
    with suppress(OSError):  # there is no standard error
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


class CodecWorker:
    """What the server says, and what is answered."""

    def __init__(self, server: Connection, codec: Codec) -> None:
        self._server = server
        self._codec = codec
        self._sending = threading.Lock()
        self._models: dict[int, _Known] = {}
        self._tickets: dict[int, Ticket] = {}

    def run(self) -> None:
        """Do what comes until the server closes its pipe."""
        self._send({"loaded": True})
        while True:
            try:
                message = orjson.loads(self._server.recv_bytes())
                self._do(message)
            except (EOFError, OSError):
                return

    def _do(self, message: Message) -> None:
        match message:
            case {"job": job, "model": model}:
                data = self._server.recv_bytes()
                self._tickets[job] = ticket = Ticket(until=message["deadline"])
                known = self._models.get(model)
                if known is None:
                    del self._tickets[job]
                    self._fail(job, EngineDownError("the model was unloaded"))
                    return
                known.threads.submit(self._work, job, data, known, ticket, message)
            case {"cancel": job}:
                if (cancelled := self._tickets.get(job)) is not None:
                    cancelled.cancel(ClientLeftError("nobody waits for the answer"))
            case {"link": model}:
                end = receive_end(self._server, message)
                known = self._models[model]
                for link in known.links:
                    if not link.is_up:
                        link.close()
                living = [link for link in known.links if link.is_up]
                known.links = [*living, EngineLink(end, label=message["label"])]
            case {"model": model, "threads": threads}:
                metadata = ArtifactMetadata.model_validate(message["metadata"])
                self._models[model] = _Known(metadata=metadata, threads=ThreadPoolExecutor(threads))
            case {"forget": model}:
                known = self._models.pop(model, None)
                if known is not None:
                    known.threads.shutdown(wait=False)  # each image is answered, if only by an error
                    for link in known.links:
                        link.close()

    def _work(self, job: int, data: bytes, known: _Known, ticket: Ticket, message: Message) -> None:
        try:
            wish = Wish.from_json(message["wish"])
            answered = self._codec.answer(data, known.metadata, known.links, wish, ticket, message["begin"])
        except ServiceError as error:
            self._fail(job, error)
        except Exception as error:
            self._reply({"job": job, "crash": f"{type(error).__name__}: {error}"})
        else:
            self._reply({"job": job, **_describe(answered)}, answered.content)
        finally:
            del self._tickets[job]

    def _fail(self, job: int, error: ServiceError) -> None:
        self._reply({"job": job, "error": error.type, "detail": error.detail})

    def _reply(self, message: Message, content: bytes | None = None) -> None:
        with suppress(OSError):  # the server is gone
            self._send(message, content)

    def _send(self, message: Message, content: bytes | None = None) -> None:
        with self._sending:
            self._server.send_bytes(orjson.dumps(message))
            if content is not None:
                self._server.send_bytes(content)


def _describe(answered: Answered) -> Message:
    return {
        "media_type": answered.media_type,
        "stages": answered.stages,
        "image_size": answered.image_size,
        "num_segments": answered.num_segments,
        "batch_size": answered.batch_size,
    }
