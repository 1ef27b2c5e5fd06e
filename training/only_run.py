"""One training at a time in a run's folder."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)  # other errors are of file systems that have no locks


@contextmanager
def only_run_in(out: Path) -> Iterator[None]:
    """Keep other processes from training in `out`, which is made. Data workers do not share the lock.

    Raises:
        ValueError: another process trains there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("wb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise ValueError(f"another process trains in {out}: wait for it, or name another folder") from error
        yield
