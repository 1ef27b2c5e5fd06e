"""Files that are there whole or not at all, even after the power has gone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


class NotWrittenError(OSError):
    """An output could not be written: the disk's fault, and no image's."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the name `path` at the end of the block; folders are made.

    Raises:
        NotWrittenError: for any OSError, those of the block among them. What was at `path` is as it was, and nothing is
            left beside it, which on a full disk would be in the way of the next one.
    """
    work = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with work.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    except BaseException as error:
        with suppress(OSError):  # what has happened is told
            work.unlink()
        if isinstance(error, OSError) and not isinstance(error, NotWrittenError):
            raise NotWrittenError(error.errno, error.strerror or str(error), error.filename or str(path)) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file."""
    with replacing(path) as file:
        file.write(content)
