"""One load client for every server: closed loops, and open loops with Poisson arrivals; in a process of its own.

    python -m benchmarks.load URL --images FOLDER [--clients 1 8 64] [--rates 50 100] [--seconds 10] [--warm-up 2]
        [--form FIELD] [--expected FILE] [--out FILE]

A closed loop of N clients sends the next image as soon as an answer is there. An open loop sends at random times of a
given mean rate, whatever the server does, and counts latency from the time at which a request was due: a server that
falls behind cannot hide it. With --expected (JSON: file name to `digest`) each answer is compared with that of its
image. Prints a table, then one JSON line. The requests are made beforehand and answers are parsed in C, so that the
client takes little time beside the server; `client_cpu` is the share of a processor that it used.
"""

import argparse
import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import http_client
from benchmarks.http_client import NO_ANSWER, Connections

_BOUNDARY = "an-image-follows"
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
Figures = dict[str, Any]
Counters = Mapping[str, float]  # name to a value that only grows
_LATE_S = 30.0  # that an open loop waits for the last answers


def digest(answer: bytes) -> str:
    """Of what an answer says about its image: its segments, and not its timing. A list has one answer."""
    document = orjson.loads(answer)
    only = document[0] if isinstance(document, list) else document
    return hashlib.sha256(orjson.dumps(only["segments"])).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image, ready to send, and the digest of its answer if that is known."""

    request: bytes
    expected: str | None = None


def load_shots(
    url: str, folder: Path, expected: Mapping[str, str] | None = None, *, form: str | None = None
) -> list[Shot]:
    """The images of a folder as POST requests to `url`: as the body, or as the field `form` of one."""
    shots = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in MEDIA_TYPES):
        media_type, body = MEDIA_TYPES[path.suffix], path.read_bytes()
        if form is not None:
            head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{form}"; filename="{path.name}"\r\n'
            head += f"Content-Type: {media_type}\r\n\r\n"
            body = head.encode() + body + f"\r\n--{_BOUNDARY}--\r\n".encode()
            media_type = f"multipart/form-data; boundary={_BOUNDARY}"
        answer = expected[path.name] if expected else None
        shots.append(Shot(request=http_client.post_request(url, body, media_type), expected=answer))
    if not shots:
        raise SystemExit(f"no {' or '.join(MEDIA_TYPES)} in {folder}")
    return shots


@dataclass
class Tally:
    """What came back: `num_answered` from `begin` to `end`, all else of what was due in that time."""

    begin: float
    end: float
    latencies: list[float] = field(default_factory=list)  # of good answers, in seconds
    failures: Counter[str] = field(default_factory=Counter)  # by status
    num_wrong: int = 0
    num_answered: int = 0

    def add(self, shot: Shot, since: float, status: int | str, body: bytes) -> None:
        """Count an answer to what was due at `since`."""
        now = time.perf_counter()
        is_due, is_within = (self.begin <= at < self.end for at in (since, now))
        if not (is_due or is_within):
            return
        if status != 200:
            self.failures.update([str(status)] if is_due else [])
        elif shot.expected is not None and digest(body) != shot.expected:
            self.num_wrong += 1
        else:
            self.num_answered += is_within
            self.latencies.extend([now - since] if is_due else [])

    def figures(self) -> Figures:
        """Images a second, percentiles of the latency in ms, failures."""
        p50, p95, p99 = np.percentile(self.latencies, (50, 95, 99)) * 1000 if self.latencies else (None,) * 3
        return {
            "images": self.num_answered,
            "images_per_s": self.num_answered / (self.end - self.begin),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "failures": dict(self.failures),
            "wrong": self.num_wrong,
        }


async def closed_loop(connections: Connections, shots: Sequence[Shot], tally: Tally, clients: float) -> None:
    """So many clients, each with one request at a time."""
    order = cycle(shots)

    async def client() -> None:
        while (since := time.perf_counter()) < tally.end:
            shot = next(order)
            status, body = await connections.post(shot.request)
            tally.add(shot, since, status, body)
            if status != 200:
                await asyncio.sleep(0.02)  # a server that refuses at once shall not be all that is measured

    await asyncio.gather(*(client() for _ in range(int(clients))))


async def open_loop(connections: Connections, shots: Sequence[Shot], tally: Tally, rate: float, seed: int = 0) -> None:
    """Requests at random times, `rate` a second in the mean."""
    order, arrivals = cycle(shots), random.Random(seed)
    running: set[asyncio.Task[None]] = set()

    async def one(shot: Shot, due: float) -> None:
        tally.add(shot, due, *await connections.post(shot.request))

    due = time.perf_counter()
    while (due := due + arrivals.expovariate(rate)) < tally.end:
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(next(order), due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        _, late = await asyncio.wait(running, timeout=_LATE_S)
        tally.failures += Counter({NO_ANSWER: len(late)})


LOOPS: dict[str, Callable[[Connections, Sequence[Shot], Tally, Any], Awaitable[None]]] = {
    "clients": closed_loop,
    "rate": open_loop,
}


def measure(
    url: str,
    shots: Sequence[Shot],
    kind: str,
    level: float,
    *,
    seconds: float,
    warm_up: float = 2.0,
    probe: Callable[[], Counters] = dict,
) -> Figures:
    """Figures of one loop: `level` is the number of "clients", or the "rate" in requests a second.

    `probe` reads counters at the begin and at the end of the time that counts; the figures have their growth a second.
    """

    async def run() -> Figures:
        connections = Connections(url)
        begin = time.perf_counter() + warm_up
        tally = Tally(begin, begin + seconds)
        loop = asyncio.create_task(LOOPS[kind](connections, shots, tally, level))
        await asyncio.sleep(warm_up)
        growth = await _watch(probe, seconds)
        await loop
        connections.close()
        return {"loop": f"{level:g} {'clients' if kind == 'clients' else 'a second'}", **tally.figures(), **growth}

    return uvloop.run(run())


async def _watch(probe: Callable[[], Counters], seconds: float) -> dict[str, float]:
    """Growth a second of what `probe` reads, and of this process' processor time."""

    def read() -> dict[str, float]:
        return {"at": time.perf_counter(), "client_cpu": time.process_time(), **probe()}

    before = read()
    await asyncio.sleep(seconds)
    after = read()
    elapsed = after.pop("at") - before["at"]
    return {name: (value - before[name]) / elapsed for name, value in after.items()}


def print_figures(title: str, lines: Sequence[Figures]) -> None:
    """A table; its columns are the keys of the first line."""
    table = Table(*(name.replace("_", " ") for name in lines[0]), title=title)
    for line in lines:
        table.add_row(*map(_text, line.values()))
    Console(width=180).print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return (
        ", ".join(f"{count} x {status}" for status, count in value.items()) if isinstance(value, dict) else str(value)
    )


def write_json(document: Figures, out: Path | None) -> None:
    """Print one JSON line, and write it to a file if one is named."""
    text = json.dumps(document)
    Console(soft_wrap=True).print(text, highlight=False)
    if out is not None:
        out.write_text(text + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="to which images are posted")
    parser.add_argument("--images", type=Path, required=True, help="folder of PNG and JPEG files")
    parser.add_argument("--clients", type=int, nargs="*", default=[], help="closed loops of so many clients")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="open loops of so many requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each loop that count")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds before them")
    parser.add_argument("--form", help="name of the form's field that takes images; default: they are the body")
    parser.add_argument("--expected", type=Path, help="JSON: file name to digest of its answer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    expected = json.loads(arguments.expected.read_text()) if arguments.expected else None
    shots = load_shots(arguments.url, arguments.images, expected, form=arguments.form)
    levels = [("clients", float(n)) for n in arguments.clients] + [("rate", rate) for rate in arguments.rates]
    if not levels:
        parser.error("name --clients, --rates, or both")
    lines = [
        measure(arguments.url, shots, kind, level, seconds=arguments.seconds, warm_up=arguments.warm_up)
        for kind, level in levels
    ]
    print_figures(arguments.url, lines)
    write_json({"url": arguments.url, "loops": lines}, arguments.out)


if __name__ == "__main__":
    main()
