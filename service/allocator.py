"""Memory of a process that works on image after image: what glibc and Python's collector shall do less often.

By default glibc gives every freed array of some hundred kilobytes back to the system, and the next image's arrays fault
in page by page: a third of the processor time of a request. The collector took another 2 %.
"""

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
_LARGE = 32 * 2**20  # the most that glibc allows: larger arrays, those of large photographs, are given back at once
_KEPT = 64 * 2**20
_ARENAS = 2  # what is kept is kept in each


def spare_collector() -> None:
    """Have the collector look seldom, and never at what is there now: modules and models, which stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def keep_freed_memory() -> None:
    """Have this process keep some tens of megabytes that it has freed; nothing happens without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be opened by name
        return
    for parameter, value in ((_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _KEPT)):
        mallopt(parameter, value)
