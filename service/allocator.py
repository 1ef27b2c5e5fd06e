"""glibc's allocator, told to keep what is freed for the next image.

By default it gives every freed array of some hundred kilobytes back to the system, and the next image's arrays fault in
page by page: a third of the processor time of a request.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
_LARGE = 32 * 2**20  # the most that glibc allows: larger arrays, those of large photographs, are given back at once
_KEPT = 64 * 2**20
_ARENAS = 2  # what is kept is kept in each


def keep_freed_memory() -> None:
    """Have this process keep some tens of megabytes that it has freed; nothing happens without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be opened by name
        return
    for parameter, value in ((_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _KEPT)):
        mallopt(parameter, value)
