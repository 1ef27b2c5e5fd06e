"""Image to segments: the only file that knows the order of the steps.

Shapes: B canvases of one batch, H x W scaled pixels each, s the output stride, N slots.
"""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata
from service.errors import ArtifactError, InvalidParameterError
from service.geometry import Plan, Tile, cells_to_image, draw_canvases, make_plan, scale_image
from service.join import TileResult, join_tiles
from service.segments import Segmentation, from_id_map
from service.session import Session

MAX_BATCH = 4  # tiles of one image that run at once
MAX_BATCH_PIXELS = 2**18  # of those tiles together, unless one alone has more: bounds the engine's memory
CROWDED = 0.98  # share of the thing slots from which on an answer carries a warning


class Segmenter:
    """Segments images with one artifact; holds no state between calls, so threads may share it."""

    def __init__(self, metadata: ArtifactMetadata, session: Session) -> None:
        if metadata.kind != "panoptic":
            raise ArtifactError(f"{metadata.name} is of kind {metadata.kind}; this release runs panoptic artifacts")
        self.metadata = metadata
        self.session = session
        self._is_thing = np.array([category.is_thing for category in metadata.categories])

    def segment(
        self,
        image: NDArray[np.uint8],
        *,
        score_threshold: float | None = None,
        overlap_threshold: float | None = None,
    ) -> Segmentation:
        """Segment an RGB image (H, W, 3); thresholds in 0..1, the artifact's own where None."""
        defaults = self.metadata.thresholds
        thresholds = {
            "score_threshold": _checked("score_threshold", score_threshold, defaults.score),
            "overlap_threshold": _checked("overlap_threshold", overlap_threshold, defaults.overlap),
        }
        height, width = image.shape[:2]
        plan = make_plan((height, width), self.metadata.geometry, self.metadata.output_stride)
        scaled = scale_image(image, plan)
        shared = thresholds | (image_statistics(scaled) if self.metadata.uses_image_statistics else {})
        results: list[TileResult] = []
        num_crowded = 0
        batch = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // math.prod(plan.canvas_size)))
        for begin in range(0, len(plan.tiles), batch):
            tiles = plan.tiles[begin : begin + batch]
            outputs = self.session.run(_graph_inputs(scaled, plan, tiles, shared))
            for index, tile in enumerate(tiles):
                result = self._read_tile({name: array[index] for name, array in outputs.items()}, tile, plan.stride)
                num_crowded += int(result.is_thing.sum()) >= CROWDED * self.metadata.num_thing_slots
                results.append(result)
        joined = join_tiles(results, plan)
        id_map = cells_to_image(joined.id_map, plan)
        return from_id_map(id_map, joined.class_index, joined.score, warnings=self._warn(num_crowded, plan))

    def _read_tile(self, outputs: Mapping[str, NDArray[Any]], tile: Tile, stride: int) -> TileResult:
        """One canvas' outputs, cut to its content; kept slots become ids 1, 2, ... in slot order."""
        segment_id = outputs["segment_id"]
        kept = np.flatnonzero(segment_id > 0)
        cells = outputs["id_map"][: -(-tile.height // stride), : -(-tile.width // stride)]
        new_id = np.zeros(max(int(segment_id.max(initial=0)), int(cells.max(initial=0))) + 1, np.int32)
        new_id[segment_id[kept]] = np.arange(1, len(kept) + 1)
        class_index = outputs["class_index"][kept].astype(np.int64)
        return TileResult(
            id_map=new_id[cells],
            class_index=class_index,
            score=outputs["score"][kept].astype(np.float64),
            is_thing=self._is_thing[class_index],
        )

    def _warn(self, num_crowded: int, plan: Plan) -> list[str]:
        if not num_crowded:
            return []
        where = "the image" if len(plan.tiles) == 1 else f"{num_crowded} of {len(plan.tiles)} tiles"
        slots = self.metadata.num_thing_slots
        return [f"{where} used nearly all of the model's {slots} thing slots; objects may be missing"]


def image_statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Mean and population standard deviation over all samples (H, W, 3) together; sums are exact."""
    mean, std = cv2.meanStdDev(image.reshape(image.shape[0], -1))
    return {"pixel_mean": float(mean[0, 0]), "pixel_std": float(std[0, 0])}


def _graph_inputs(
    scaled: NDArray[np.uint8], plan: Plan, tiles: tuple[Tile, ...], shared: Mapping[str, float]
) -> dict[str, NDArray[Any]]:
    """One batch (B): its canvases, their valid sizes, and the values that all tiles of an image share."""
    inputs: dict[str, NDArray[Any]] = {
        "image": draw_canvases(scaled, plan, tiles),
        "valid_size": np.array([(tile.height, tile.width) for tile in tiles], np.int32),
    }
    inputs.update({name: np.full(len(tiles), value, np.float32) for name, value in shared.items()})
    return inputs


def _checked(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not 0 <= value <= 1:  # NaN fails, too
        raise InvalidParameterError(f"{name} must lie in 0..1, not {value}")
    return value
