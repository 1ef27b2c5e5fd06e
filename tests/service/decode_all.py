"""A process of its own that decodes hostile files within limits of memory and processor time, and prints a summary.

    python decode_all.py mutants COUNT SEED | bombs

A crash, a killed process, a limit reached or another exception than RequestError is a fault of the decoder.
"""

import collections
import faulthandler
import json
import resource
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import hostile_files  # noqa: E402
import image_bombs  # noqa: E402

from service.errors import RequestError  # noqa: E402
from service.image import decode  # noqa: E402

MAX_PIXELS, MAX_SIDE = 1_000_000, 20_000
MEMORY = 800 * 1024 * 1024  # bytes of addresses beyond those of a process that has decoded one image
CPU_S = 600


def outcome(data: bytes) -> str:
    try:
        pixels = decode(data, max_pixels=MAX_PIXELS, max_side=MAX_SIDE)
    except RequestError as error:
        assert "0x" not in error.detail, error.detail
        return error.type
    assert pixels.dtype == "uint8"
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
    return "image"


def limit_memory() -> None:
    for data in hostile_files.originals():
        assert outcome(data) == "image"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def main(kind: str, *arguments: str) -> None:
    faulthandler.enable()
    if kind == "bombs":
        # Made before the limits: the larger files need memory of their own.
        files = {name: make() for name, make in (image_bombs.REFUSED | image_bombs.TAKEN).items()}
    else:
        files = dict(enumerate(hostile_files.mutants(*map(int, arguments))))
    limit_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {name: outcome(data) for name, data in files.items()}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    summary = outcomes if kind == "bombs" else collections.Counter(outcomes.values())
    json.dump({"outcomes": summary, "grown_mb": grown / 1024, "threads": threading.active_count()}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
