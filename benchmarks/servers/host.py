"""The service's host steps for other servers: the same decode, geometry, reading, RLE and JSON, whoever batches.

A server that is compared calls `prepare` for each image, `run` for a batch, `finish` for each image. What it serves
comes from the environment, as some of them start processes of their own that see nothing else:

- SERVING_ARTIFACT: folder of the artifact, whose images need one canvas each;
- SERVING_OPENER: module whose `open_session` loads it: `service.variants`, or `benchmarks.simulated`;
- SERVING_PORT; SERVING_WORKERS: processes, or batches at once, that the server may use.
"""

import importlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service import answers, artifact, image
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.geometry import Plan, cells_to_image, draw_canvases, make_plan, scale_image
from service.join import TileResult
from service.segmenter import Segmenter, find_thresholds, image_statistics
from service.segments import from_id_map
from service.session import Arrays, LoadedSession, available_cpus
from service.variants import choose_variant

MAX_BATCH = 8
BATCH_WAIT_S = 0.005  # where a server needs one: 0 makes LitServe's workers spin


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to serve and how."""

    folder: Path
    opener: str
    port: int
    workers: int


def options() -> Options:
    """From the environment."""
    return Options(
        folder=Path(os.environ["SERVING_ARTIFACT"]),
        opener=os.environ["SERVING_OPENER"],
        port=int(os.environ["SERVING_PORT"]),
        workers=int(os.environ["SERVING_WORKERS"]),
    )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One image before its run: pixels (H, W, 3) and the graph's inputs for its canvas (1, ...)."""

    pixels: NDArray[np.uint8]
    plan: Plan
    inputs: Arrays


class Host:
    """A panoptic or semantic artifact whose images need one canvas each; threads may share it."""

    def __init__(self, metadata: ArtifactMetadata, session: LoadedSession) -> None:
        self.metadata = metadata
        self._session = session
        self._turns = threading.Semaphore(session.runs_at_once)
        self._segmenter = Segmenter(metadata, session)
        self._is_thing = np.array([category.is_thing for category in metadata.categories])
        self._thresholds = find_thresholds(metadata, score_threshold=None, overlap_threshold=None)
        self.wish = Wish(task=metadata.kind, format="rle")

    def prepare(self, data: bytes) -> Prepared:
        """From an image file to the inputs of the graph."""
        pixels = image.decode(data)
        plan = make_plan((pixels.shape[0], pixels.shape[1]), self.metadata.geometry, self.metadata.output_stride)
        if len(plan.tiles) != 1:
            raise ValueError(f"an image of {pixels.shape[:2]} needs {len(plan.tiles)} canvases; only 1 is benchmarked")
        scaled = scale_image(pixels, plan)
        shared = image_statistics(scaled) if self.metadata.uses_image_statistics else {}
        (tile,) = plan.tiles
        inputs: dict[str, NDArray[Any]] = {
            "image": draw_canvases(scaled, plan, plan.tiles),
            "valid_size": np.array([(tile.height, tile.width)], np.int32),
        }
        inputs |= {name: np.full(1, value, np.float32) for name, value in (shared | self._thresholds).items()}
        return Prepared(pixels=pixels, plan=plan, inputs=inputs)

    def run(self, batch: Sequence[Prepared]) -> list[Arrays]:
        """Outputs of each image; all have the same canvas size."""
        first = batch[0].inputs
        inputs = {name: np.concatenate([one.inputs[name] for one in batch]) for name in first}
        with self._turns:
            outputs = self._session.run(inputs)
        return [{name: array[index] for name, array in outputs.items()} for index in range(len(batch))]

    def read(self, outputs: Arrays, plan: Plan) -> TileResult:
        """The canvas of one image in cells."""
        segmenter = self._segmenter
        reader = segmenter._read_slots if self.metadata.kind == "panoptic" else segmenter._read_classes
        return reader(outputs, plan.tiles[0], plan.stride)

    def finish(self, prepared: Prepared, outputs: Arrays) -> dict[str, Any]:
        """The answer's JSON document."""
        result = self.read(outputs, prepared.plan)
        min_area = np.where(self._is_thing[result.class_index], self.metadata.thresholds.min_area, 1)
        id_map = cells_to_image(result.id_map, prepared.plan)
        segmentation = from_id_map(id_map, result.class_index, result.score, min_area=min_area)
        return answers.document(prepared.pixels, segmentation, self.wish, self.metadata)

    def answer(self, files: Sequence[bytes]) -> list[bytes]:
        """The answers to a batch of image files as JSON, one step after the other."""
        batch = [self.prepare(data) for data in files]
        documents = map(self.finish, batch, self.run(batch))
        return [orjson.dumps(document) for document in documents]


def open_host(chosen: Options, *, num_sessions: int = 1) -> Host:
    """The artifact of the options, loaded; `num_sessions` processes share the processors."""
    metadata = artifact.load(chosen.folder)
    opener = importlib.import_module(chosen.opener).open_session
    threads = max(1, available_cpus() // num_sessions)
    return Host(metadata, opener(chosen.folder, choose_variant(metadata), threads=threads))
