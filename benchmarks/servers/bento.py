"""BentoML: adaptive batches in worker processes, which also parse HTTP, decode and encode.

    bentoml serve benchmarks.servers.bento:Segment --port N

Batches are lists: a client posts a form with one image and gets a list of one answer.
"""

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.servers.host import MAX_BATCH, open_host, options

_CHOSEN = options()


@bentoml.service(workers=_CHOSEN.workers, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Segment:
    """One worker."""

    def __init__(self) -> None:
        self._host = open_host(_CHOSEN, num_sessions=_CHOSEN.workers)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000)
    def segment(self, images: list[Path]) -> list[dict[str, Any]]:
        """A batch."""
        batch = [self._host.prepare(path.read_bytes()) for path in images]
        return list(map(self._host.finish, batch, self._host.run(batch)))
