"""The runner of one machine: threads around the engine processes, as many as keep those busy."""

from collections.abc import Callable

from batch.folder import JobFolder
from batch.items import Item
from batch.sinks import SINKS, Format
from batch.steps import Outcome, SlideOptions, Steps
from batch.workers import for_each
from service.answers import Wish
from service.engine_worker import Opener
from service.replicas import Replicas
from service.repository import StoredArtifact
from service.session import available_cpus
from service.settings import Settings
from service.variants import open_session


def run(
    folder: JobFolder,
    stored: StoredArtifact,
    settings: Settings,
    wish: Wish,
    format: Format,
    advanced: Callable[[Outcome], None],
    slides: SlideOptions,
    *,
    opener: Opener = open_session,
) -> None:
    """Do all images that are not done; `opener`: what engine processes load the model with.

    Raises:
        ServiceError: the engine cannot be started.
        OSError: an output cannot be written.
    """
    replicas = Replicas(stored, settings, opener=opener)
    replicas.start()
    try:
        replicas.wait_ready()
        steps = Steps(replicas, stored.metadata, wish, SINKS[format], settings, slides)

        def do(entry: tuple[int, Item]) -> None:
            index, item = entry
            outcome = steps(index, item)
            folder.keep(item, outcome)
            advanced(outcome)

        # As many images as fill two batches of each engine, while the processors decode and encode others.
        num_threads = 2 * replicas.max_batch * len(replicas.engines) + available_cpus()
        for_each(do, folder.pending(), num_threads, stop=steps.stop)
    finally:
        replicas.close()
