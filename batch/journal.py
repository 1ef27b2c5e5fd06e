"""What a job has done, a line an image in the order in which they were done; survives the end of the process."""

import os
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

_SYNC_EVERY_S = 1.0  # a machine that loses power loses no more than that, and the images are done again


class Journal:
    """The journal of `count` images, opened to go on; one process at a time, which the caller sees to."""

    def __init__(self, path: Path, count: int) -> None:
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        self._position = array("q", [-1]) * count  # of each image's line; eight bytes are all that is held of it
        self._end = 0
        self._synced = time.monotonic()
        self.num_done = 0
        self._recover()

    def is_done(self, index: int) -> bool:
        """Whether the image has a line."""
        return self._position[index] >= 0

    def append(self, index: int, record: dict[str, Any]) -> None:
        """Write an image's line; once this returns, the image is done whatever happens to the process."""
        line = orjson.dumps({"index": index, **record}) + b"\n"
        with self._lock:
            written = 0
            while written < len(line):
                written += os.write(self._file.fileno(), line[written:])
            self._note(index, len(line))
            if time.monotonic() - self._synced > _SYNC_EVERY_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The images that are done, in the order of the job."""
        with Path(self._file.name).open("rb") as file:
            for index, position in enumerate(self._position):
                if position >= 0:
                    file.seek(position)
                    yield index, orjson.loads(file.readline())

    def close(self) -> None:
        """All that is written lasts."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _recover(self) -> None:
        """Find the lines of an earlier process, and cut off one that it has not finished."""
        with Path(self._file.name).open("rb") as file:
            for line in file:
                try:
                    index = orjson.loads(line)["index"] if line.endswith(b"\n") else None
                except orjson.JSONDecodeError:
                    index = None
                if index is None:
                    break
                self._note(index, len(line))
        self._file.truncate(self._end)

    def _note(self, index: int, length: int) -> None:
        self.num_done += self._position[index] < 0
        self._position[index] = self._end
        self._end += length
