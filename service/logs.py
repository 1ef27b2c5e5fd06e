"""Log lines on standard error: text for people, or one JSON object a line; each with the request that it is about.

Clients choose paths and some of the words in messages. Whatever they choose, one record stays one line (in text, a
traceback's lines are indented), and has no control character. Keys, bodies and query strings are in no record.
"""

import json
import logging
import os
import select
import sys
import time
from contextvars import ContextVar
from typing import Any, Literal

request_id: ContextVar[str] = ContextVar("request_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")  # where traces are on
model: ContextVar[str] = ContextVar("model", default="")  # its name and version

# What a record may carry beside its message, given as `extra`: nothing else of a record is written.
_FIELDS = ("request_id", "trace_id", "model", "method", "path", "status", "duration_ms", "key_name")
_PATIENCE_MS = 100  # with a reader of the log that is slow


def configure(level: str, form: Literal["text", "json"] | None = None) -> None:
    """Send all logs of this process, of uvicorn and of Python's warnings to standard error, and nowhere else.

    Without a form, a terminal gets text and everything else JSON. `level` is of our own loggers; those of libraries
    are never below `info`, as some tell there what they were given.
    """
    logging.captureWarnings(True)
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("knet").setLevel(number)
    logging.root.setLevel(max(number, logging.INFO))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it tells whole URLs
    logging.root.handlers.clear()
    try:
        handler = _DescriptorHandler(sys.stderr.fileno())
    except (AttributeError, ValueError):  # closed before the start: its number may be that of a socket by now
        logging.root.addHandler(logging.NullHandler())
        return
    form = form or ("text" if sys.stderr.isatty() else "json")
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.root.addHandler(handler)


class _DescriptorHandler(logging.Handler):
    """Writes each line at once and unbuffered; one that cannot be written is lost, and nobody fails.

    Whoever reads a full pipe is waited for once. Until it reads again, lines are lost and nobody waits: a server whose
    log is not read goes on.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._is_stalled = False
        self._is_inside_line = False  # after a write that ended halfway, on a full disk

    def emit(self, record: logging.LogRecord) -> None:
        try:
            rest = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # arguments that do not fit the message: a bug, but not one of this request
            rest = f"{record.pathname}:{record.lineno}: log message cannot be formatted\n".encode()
        if self._is_inside_line:
            rest = b"\n" + rest
        try:
            while rest and self._takes_a_piece():
                written = os.write(self._descriptor, rest[: select.PIPE_BUF])
                self._is_inside_line = written < len(rest)
                rest = rest[written:]
        except OSError:
            pass

    def _takes_a_piece(self) -> bool:
        """Whether `PIPE_BUF` bytes can be written without waiting."""
        self._is_stalled = not self._poll.poll(0 if self._is_stalled else _PATIENCE_MS)
        return not self._is_stalled


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # in ASCII, all else escaped


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        about = "".join(f" [{_printable(str(fields[name]))}]" for name in ("model", "request_id") if name in fields)
        line = f"{_time(record)} {record.levelname:7} {record.name}: {_printable(record.getMessage())}{about}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f"    {_printable(part)}" for part in trace)])
        return line


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The record's own fields, and of the request that this thread or task works for."""
    around = {"request_id": request_id.get(), "trace_id": trace_id.get(), "model": model.get()}
    fields = {name: getattr(record, name, around.get(name)) for name in _FIELDS}
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _printable(text: str) -> str:
    """The text without line breaks, terminal codes and characters that turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
