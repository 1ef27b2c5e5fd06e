"""The first runs of a graph, before anybody waits for one: the first run of each shape is slow."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata
from service.errors import ServiceError
from service.geometry import canvas_sizes, common_sizes
from service.segmenter import Segmenter, blank_inputs
from service.session import LoadedSession


def warm_up(session: LoadedSession, metadata: ArtifactMetadata, limit: Callable[[int, int], int]) -> None:
    """Run each batch of each canvas size once, the first twice in as many threads as may run at once.

    `limit` is the most canvases of (height, width) in a batch.

    Raises:
        ServiceError: the graph fails, or does not keep the artifact's contract.
    """
    try:
        height, width = common_sizes(metadata.geometry)[0]
        images = [np.zeros((height, width, 3), np.uint8)] * 2 * session.runs_at_once
        with ThreadPoolExecutor(session.runs_at_once) as pool:
            list(pool.map(Segmenter(metadata, session).segment, images))
        for height, width in canvas_sizes(metadata.geometry):
            for batch in range(1, limit(height, width) + 1):
                inputs: dict[str, NDArray[Any]] = blank_inputs(metadata, batch, (height, width))
                session.run(inputs)
    except ServiceError:
        raise
    except Exception as error:  # a graph that does not keep the contract fails in any way
        raise ServiceError(f"warm-up failed: {type(error).__name__}: {error}") from error
