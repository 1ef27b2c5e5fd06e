"""Ray Serve: an HTTP proxy process, and a replica that batches; two batches at once, so that decoding overlaps a run.

RAY_SERVE_THROUGHPUT_OPTIMIZED=1 python -m benchmarks.servers.ray_serve
"""

import asyncio
import signal

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.servers.host import BATCH_WAIT_S, MAX_BATCH, open_host, options


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Segment:
    """One replica."""

    def __init__(self) -> None:
        self._host = open_host(options())

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S, max_concurrent_batches=2)
    async def segment(self, files: list[bytes]) -> list[bytes]:
        """A batch, beside the event loop."""
        return await asyncio.to_thread(self._host.answer, files)

    async def __call__(self, request: Request) -> Response:
        """One image."""
        return Response(await self.segment(await request.body()), media_type="application/json")


def main() -> None:
    """Serve until SIGTERM."""
    chosen = options()
    ray.init(num_cpus=chosen.workers + 1, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": chosen.port})
    deployment = Segment.options(num_replicas=chosen.workers, logging_config={"enable_access_log": False})
    serve.run(deployment.bind(), route_prefix="/segment")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
