"""Files that are there whole or not at all, even after the power has gone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the name `path` at the end of the block; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.part")
    with work.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    work.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file."""
    with replacing(path) as file:
        file.write(content)
