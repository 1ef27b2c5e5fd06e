"""A file that one process at a time holds."""

import errno
import fcntl
from pathlib import Path
from typing import IO

_HELD = (errno.EACCES, errno.EAGAIN)  # other errors are of file systems that have no locks


def hold(path: Path) -> IO[bytes] | None:
    """The file, held until it is closed or this process ends, or None while another process holds it.

    The processes that this one forks do not hold it: they may outlive it for some seconds.
    """
    file = path.open("wb")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            file.close()
            return None
    return file
