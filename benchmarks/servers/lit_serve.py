"""LitServe: batches in worker processes, which also decode and encode; ZeroMQ between them and the HTTP process.

    python -m benchmarks.servers.lit_serve

Raw bytes arrive as FastAPI's body; a ready response travels back.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import litserve
import orjson
from fastapi import Body, Response

from benchmarks.servers.host import BATCH_WAIT_S, MAX_BATCH, Prepared, open_host, options
from service.session import Arrays


class Segment(litserve.LitAPI):
    """One worker: decodes a batch, runs it, encodes its answers."""

    def setup(self, device: str) -> None:
        """Load the model."""
        chosen = options()
        self._host = open_host(chosen, num_sessions=chosen.workers)

    def decode_request(self, request: Annotated[bytes, Body()]) -> Prepared:
        """One image."""
        return self._host.prepare(request)

    def batch(self, inputs: Sequence[Prepared]) -> Sequence[Prepared]:
        """Stacked in `predict`."""
        return inputs

    def predict(self, x: Sequence[Prepared]) -> list[tuple[Prepared, Arrays]]:
        """Run the graph."""
        return list(zip(x, self._host.run(x), strict=True))

    def unbatch(self, output: list[tuple[Prepared, Arrays]]) -> list[tuple[Prepared, Arrays]]:
        """Unstacked in `predict`."""
        return output

    def encode_response(self, output: tuple[Prepared, Arrays]) -> Response:
        """One answer."""
        return Response(orjson.dumps(self._host.finish(*output)), media_type="application/json")


def main() -> None:
    """Serve."""
    chosen = options()
    api: Any = Segment(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S, api_path="/segment")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=chosen.workers, fast_queue=True)
    server.run(host="127.0.0.1", port=chosen.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
