"""One request's images through decode, engine and encode, beside the event loop and with bounds on what waits."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from service import answers, image
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.errors import QueueFullError
from service.instances import Result
from service.models import Model
from service.session import available_cpus
from service.settings import Settings
from service.threads import Threads


@dataclass(frozen=True)
class Payload:
    """The body of an answer."""

    content: bytes
    media_type: str


class Pipeline:
    """The steps of all requests; `settings.max_queue` images at most wait or run at once."""

    def __init__(self, settings: Settings) -> None:
        self.threads = Threads(available_cpus(), "codec")
        self._max_pixels = settings.max_pixels
        self._max_side = settings.max_side
        self._max_queue = settings.max_queue
        self._num_images = 0
        # Decoded images are large: as many as keep the threads and one engine busy, and no more.
        self._decoded = asyncio.Semaphore(available_cpus() + 2)

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Places for the images of one request; raises QueueFullError when there are too few."""
        if self._num_images + count > self._max_queue:
            raise QueueFullError(
                f"{self._num_images} images wait already, this server's limit is {self._max_queue}; try again soon"
            )
        self._num_images += count
        try:
            yield
        finally:
            self._num_images -= count

    async def answer(self, data: bytes, model: Model, wish: Wish) -> Payload:
        """Answer for one image file."""
        begin = time.perf_counter()
        async with self._decoded:
            admitted = time.perf_counter()
            pixels = await self.threads.run(image.decode, data, max_pixels=self._max_pixels, max_side=self._max_side)
            decoded = time.perf_counter()
            result, timings = await model.threads.run(
                model.segment,
                pixels,
                score_threshold=wish.score_threshold,
                overlap_threshold=wish.overlap_threshold,
            )
            seconds = {
                "decode": decoded - admitted,
                "queue": admitted - begin + timings.queue,
                "engine": timings.engine,
            }
            return await self.threads.run(_encode, pixels, result, wish, model.metadata, seconds, begin)

    def close(self) -> None:
        """Let running work finish."""
        self.threads.close()


def _encode(
    pixels: NDArray[np.uint8],
    result: Result,
    wish: Wish,
    metadata: ArtifactMetadata,
    seconds: dict[str, float],
    begin: float,
) -> Payload:
    """The body of the answer; `seconds` of the steps before, which began at `begin`."""
    start = time.perf_counter()
    shown = answers.view(result, wish, metadata)
    if wish.picture_only:
        return Payload(answers.picture(pixels, shown, wish, metadata), "image/png")
    document = answers.document(pixels, shown, wish, metadata)
    end = time.perf_counter()
    seconds = {**seconds, "encode": end - start, "total": end - begin}
    document["timing_ms"] = {name: round(1000 * value, 2) for name, value in seconds.items()}
    return Payload(orjson.dumps(document), "application/json")
