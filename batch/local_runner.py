"""The runner of one machine: threads around the engine processes, as many as keep those busy."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from batch.folder import JobFolder
from batch.items import Item
from batch.sinks import SINKS, Format
from batch.steps import Outcome, Steps
from service.answers import Wish
from service.replicas import Replicas
from service.repository import StoredArtifact
from service.session import available_cpus
from service.settings import Settings


def run(
    folder: JobFolder,
    stored: StoredArtifact,
    settings: Settings,
    wish: Wish,
    format: Format,
    advanced: Callable[[Outcome], None],
) -> None:
    """Do all images that are not done.

    Raises:
        ServiceError: the engine cannot be started.
        OSError: an output cannot be written.
    """
    replicas = Replicas(stored, settings)
    replicas.start()
    try:
        replicas.wait_ready()
        steps = Steps(replicas, stored.metadata, wish, SINKS[format], settings)

        def do(index: int, item: Item) -> None:
            outcome = steps(index, item)
            folder.keep(item, outcome)
            advanced(outcome)

        # As many images as fill two batches of each engine, while the processors decode and encode others.
        for_each(do, folder.pending(), 2 * replicas.max_batch * len(replicas.engines) + available_cpus())
    finally:
        replicas.close()


def for_each(function: Callable[[int, Item], None], items: Iterable[tuple[int, Item]], num_threads: int) -> None:
    """Call the function for each item, in threads; no more items are taken than there are threads.

    Raises:
        Exception: the first that a call raises; calls that run are waited for, and no other is begun.
    """
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="batch") as pool:
        for index, item in items:
            running.add(pool.submit(function, index, item))
            if len(running) == num_threads:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in running:
            future.result()
