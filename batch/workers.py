"""A few threads for many things to do."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def for_each(
    function: Callable[[T], None],
    items: Iterable[T],
    num_threads: int,
    *,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Call the function for each item, in threads; no more items are taken than there are threads.

    `stop`: called before calls that run are waited for, when another has failed or this thread is interrupted.

    Raises:
        Exception: the first that a call raises; no other is begun.
    """
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="batch") as pool:
        try:
            for item in items:
                running.add(pool.submit(function, item))
                if len(running) == num_threads:
                    running = _settle(running)
            while running:
                running = _settle(running)
        except BaseException:
            stop()
            raise


def _settle(running: set[Future[None]]) -> set[Future[None]]:
    """Wait until a call ends, or several; those that still run. Raises what a call has raised."""
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left
