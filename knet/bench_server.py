"""What `knet bench --url` does: closed loops of clients against a running server.

Each client has a connection of its own and sends the next image as soon as it has the answer to the last.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from knet.client import AsyncKNetClient, KNetClient, KNetError
from knet.machine import processor

READY_S = 5.0  # that a server may take to answer at all
_PAUSE_S = 0.05  # after a refusal: a server that refuses at once shall not be all that is measured


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Whom to ask, and for how long."""

    url: str
    api_key: str | None
    model: str
    version: str | None
    clients: tuple[int, ...]  # a loop for each
    seconds: float  # of each loop


@dataclass
class _Tally:
    end: float = 0.0  # when no more is sent
    latencies: list[float] = field(default_factory=list)  # seconds, of good answers
    failures: Counter[str] = field(default_factory=Counter)  # by status


def bench_server(images: Sequence[Path], wishes: Wishes, console: Console) -> dict[str, Any]:
    """Figures of each loop; raises KNetError where the server or the model is not there."""
    with KNetClient(wishes.url, api_key=wishes.api_key) as client:
        with console.status("Waiting for the server ..."):
            client.wait_ready(READY_S)
        versions = client.model(wishes.model)["versions"]
    about = [one for one in versions if wishes.version in (None, one["version"])]
    if not about:
        legal = ", ".join(one["version"] for one in versions)
        raise ValueError(f"{wishes.model} has no version {wishes.version} there; legal: {legal}")
    contents = [image.read_bytes() for image in images]
    loops = []
    for count in wishes.clients:
        with console.status(f"{count} client(s), {wishes.seconds:g} s ..."):
            loops.append(asyncio.run(_loop(contents, wishes, count)))
    return {
        "url": wishes.url,
        "model": wishes.model,
        "version": about[-1]["version"],
        "variant": about[-1]["running"],
        "client_processor": processor(),
        "images": [str(image) for image in images],
        "loops": loops,
    }


def show(figures: dict[str, Any], console: Console) -> None:
    """Print a table, a line for each number of clients."""
    title = f"{figures['model']}/{figures['version']} ({figures['variant']}) at {figures['url']}"
    table = Table("clients", "images/s", "ms, p50", "p95", "p99", "failed", "client's CPU")
    for loop in figures["loops"]:
        latencies = ("" if loop[name] is None else f"{loop[name]:.0f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
        failed = ", ".join(f"{count} x {status}" for status, count in loop["failures"].items())
        cpu = f"{loop['client_cpu']:.0%}"
        table.add_row(str(loop["clients"]), f"{loop['images_per_s']:.1f}", *latencies, failed or "0", cpu)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"Client on: {figures['client_processor']}", soft_wrap=True, highlight=False)


async def _loop(contents: Sequence[bytes], wishes: Wishes, count: int) -> dict[str, Any]:
    order = cycle(contents)
    async with AsyncExitStack() as stack:
        clients = [
            # What is asked again would hide what was refused.
            await stack.enter_async_context(AsyncKNetClient(wishes.url, api_key=wishes.api_key, retries=0))
            for _ in range(count)
        ]
        # Connections are made, and the server has seen so many at once, before anything counts.
        await asyncio.gather(*(_ask(client, order, wishes, _Tally()) for client in clients))
        tally = _Tally(end=time.perf_counter() + wishes.seconds)
        begin, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(_ask(client, order, wishes, tally) for client in clients))
        elapsed, used = time.perf_counter() - begin, time.process_time() - used
    percentiles: dict[str, float | None] = {
        f"p{share}_ms": float(1000 * np.percentile(tally.latencies, share)) if tally.latencies else None
        for share in (50, 95, 99)
    }
    return {
        "clients": count,
        "images": len(tally.latencies),
        "images_per_s": len(tally.latencies) / elapsed,
        **percentiles,
        "failures": dict(tally.failures),
        "client_cpu": used / elapsed,
    }


async def _ask(client: AsyncKNetClient, order: Iterator[bytes], wishes: Wishes, tally: _Tally) -> None:
    """Until the end, but at least one image."""
    since = time.perf_counter()
    while True:
        try:
            await client.segment(next(order), model=wishes.model, version=wishes.version)
        except KNetError as error:
            tally.failures[str(error.status or "no answer")] += 1
            await asyncio.sleep(_PAUSE_S)
        else:
            tally.latencies.append(time.perf_counter() - since)
        since = time.perf_counter()
        if since >= tally.end:
            return
