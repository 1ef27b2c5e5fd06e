"""This repository's server with the engine that the environment names; its defaults but for queue and log.

python -m benchmarks.servers.ours
"""

import importlib

from benchmarks.servers.host import MAX_BATCH, options
from service.server import run
from service.settings import ModelSettings, Settings


def main() -> None:
    """Serve until SIGTERM."""
    chosen = options()
    settings = Settings(
        repository=chosen.folder.parent.parent,
        port=chosen.port,
        max_batch=MAX_BATCH,
        max_batch_pixels=2**22 if chosen.opener == "benchmarks.simulated" else None,  # the default of an accelerator
        max_queue=256,
        models={chosen.folder.parent.name: ModelSettings(replicas=chosen.workers)},
        log_level="warning",  # the others write no line for a request either
    )
    run(settings, opener=importlib.import_module(chosen.opener).open_session)


if __name__ == "__main__":
    main()
