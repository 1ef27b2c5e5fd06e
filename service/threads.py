"""Work beside the event loop, in threads of our own: the server's health routes never wait for them."""

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A pool of `count` threads."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of a function that runs in one of the threads, in the caller's context: log lines name its request."""
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Let a function run in one of the threads, whatever comes of it."""
        self._executor.submit(function, *args, **kwargs)

    def close(self) -> None:
        """Let running work finish and forget what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)
