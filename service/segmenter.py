"""Image to segments: the only file that knows the order of the steps.

Shapes: B canvases of one batch, H x W scaled pixels each, s the output stride, N slots.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata
from service.errors import InvalidParameterError
from service.geometry import Plan, Tile, cells_to_image, draw_canvases, make_plan, scale_image
from service.instances import Result, read_instances
from service.join import TileResult, join_tiles
from service.pixels import mean_and_std
from service.segments import SEMANTIC_SCORE, from_id_map
from service.session import Arrays, Session

MAX_BATCH = 4  # tiles of one image that are asked for at once
MAX_BATCH_PIXELS = 2**18  # of those tiles together, unless one alone has more: bounds the engine's memory
CROWDED = 0.98  # share of the thing slots from which on an answer carries a warning
_THRESHOLDS_OF = {
    "panoptic": ("score_threshold", "overlap_threshold"),
    "instance": ("score_threshold",),
    "semantic": (),
}


class Segmenter:
    """Segments images with one artifact; holds no state between calls, so threads may share it.

    `max_batch_pixels` bounds the tiles that are given to the session at once; one alone always is.
    """

    def __init__(
        self, metadata: ArtifactMetadata, session: Session, *, max_batch_pixels: int = MAX_BATCH_PIXELS
    ) -> None:
        self.metadata = metadata
        self.session = session
        self._max_batch_pixels = max_batch_pixels
        self._is_thing = np.array([category.is_thing for category in metadata.categories])

    def segment(
        self,
        image: NDArray[np.uint8],
        *,
        score_threshold: float | None = None,
        overlap_threshold: float | None = None,
    ) -> Result:
        """Segment an RGB image (H, W, 3); thresholds as in `find_thresholds`.

        An instance artifact gives `Instances`, the others give a `Segmentation`.
        """
        metadata = self.metadata
        thresholds = find_thresholds(metadata, score_threshold=score_threshold, overlap_threshold=overlap_threshold)
        height, width = image.shape[:2]
        plan = make_plan((height, width), metadata.geometry, metadata.output_stride)
        scaled = scale_image(image, plan)
        shared = image_statistics(scaled) if metadata.uses_image_statistics else {}
        if metadata.kind == "instance":
            ((_, outputs),) = self._run(scaled, plan, shared)
            upsample, score = metadata.mask_upsample, thresholds["score_threshold"]
            return read_instances(outputs, plan, mask_upsample=upsample, score_threshold=score)
        results = self.read_tiles(scaled, plan, shared | thresholds)
        joined = join_tiles(results, plan)
        id_map = cells_to_image(joined.id_map, plan)
        min_area = min_areas(metadata, joined.class_index)
        warnings = crowded_warnings(metadata, sum(is_crowded(metadata, result) for result in results), len(results))
        return from_id_map(id_map, joined.class_index, joined.score, min_area=min_area, warnings=warnings)

    def read_tiles(self, scaled: NDArray[np.uint8], plan: Plan, values: Mapping[str, float]) -> list[TileResult]:
        """A result per tile of the plan, in its order; not for instance artifacts, whose masks are not joined.

        `scaled`: (H, W, 3) at the plan's scaled size. `values`: inputs of the graph that all tiles share.
        """
        read = self._read_slots if self.metadata.kind == "panoptic" else self._read_classes
        return [read(outputs, tile, plan.stride) for tile, outputs in self._run(scaled, plan, values)]

    def enlarging(self, factor: float) -> "Segmenter":
        """The same, for images that are made larger by a factor first, where the geometry has a scale."""
        geometry = self.metadata.geometry
        if factor == 1 or geometry.mode != "tile":
            return self
        larger = geometry.model_copy(update={"scale": geometry.scale * factor})
        metadata = self.metadata.model_copy(update={"geometry": larger})
        return Segmenter(metadata, self.session, max_batch_pixels=self._max_batch_pixels)

    def _run(
        self, scaled: NDArray[np.uint8], plan: Plan, shared: Mapping[str, float]
    ) -> Iterator[tuple[Tile, dict[str, NDArray[Any]]]]:
        """Each tile with its outputs, in batches of as many as the engine's memory is for."""
        batch = max(1, min(MAX_BATCH, self._max_batch_pixels // math.prod(plan.canvas_size)))
        for begin in range(0, len(plan.tiles), batch):
            tiles = plan.tiles[begin : begin + batch]
            outputs = self.session.run(_graph_inputs(scaled, plan, tiles, shared))
            for index, tile in enumerate(tiles):
                yield tile, {name: array[index] for name, array in outputs.items()}

    def _read_slots(self, outputs: Arrays, tile: Tile, stride: int) -> TileResult:
        """A panoptic canvas, cut to its content; kept slots become ids 1, 2, ... by descending score, as in answers."""
        segment_id = outputs["segment_id"]
        kept = np.flatnonzero(segment_id > 0)
        kept = kept[np.argsort(-outputs["score"][kept], kind="stable")]
        cells = _content(outputs["id_map"], tile, stride)
        new_id = np.zeros(max(int(segment_id.max(initial=0)), int(cells.max(initial=0))) + 1, np.int32)
        new_id[segment_id[kept]] = np.arange(1, len(kept) + 1)
        class_index = outputs["class_index"][kept].astype(np.int64)
        return TileResult(
            id_map=new_id[cells],
            class_index=class_index,
            score=outputs["score"][kept].astype(np.float64),
            is_thing=self._is_thing[class_index],
        )

    def _read_classes(self, outputs: Arrays, tile: Tile, stride: int) -> TileResult:
        """A semantic canvas, cut to its content; the classes present become ids 1, 2, ... by class index.

        A class's score is the mean confidence of its cells, where the graph gives one.
        """
        cells = _content(outputs["class_map"], tile, stride)
        num_classes = len(self.metadata.categories)
        areas = np.bincount(cells.ravel(), minlength=num_classes)
        present = np.flatnonzero(areas)
        score = np.full(len(present), SEMANTIC_SCORE)
        if self.metadata.confidence:
            confidence = _content(outputs["confidence"], tile, stride)
            score = np.bincount(cells.ravel(), confidence.ravel(), minlength=num_classes)[present] / areas[present]
        new_id = np.zeros(num_classes, np.int32)
        new_id[present] = np.arange(1, len(present) + 1)
        return TileResult(
            id_map=new_id[cells],
            class_index=present,
            score=score,
            is_thing=np.zeros(len(present), np.bool_),  # regions of a class are joined, whatever it is
        )


def min_areas(metadata: ArtifactMetadata, class_index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fewest pixels of the posted image that a segment of each class (K) may have."""
    is_thing = np.array([category.is_thing for category in metadata.categories])
    return np.where(is_thing[class_index], metadata.thresholds.min_area, 1)


def is_crowded(metadata: ArtifactMetadata, result: TileResult) -> bool:
    """Whether slots ran short in a tile, which only a panoptic artifact's can."""
    return metadata.kind == "panoptic" and int(result.is_thing.sum()) >= CROWDED * metadata.num_thing_slots


def crowded_warnings(metadata: ArtifactMetadata, num_crowded: int, num_tiles: int) -> list[str]:
    """What an answer says of crowded tiles."""
    if not num_crowded:
        return []
    where = "the image" if num_tiles == 1 else f"{num_crowded} of {num_tiles} tiles"
    slots = metadata.num_thing_slots
    return [f"{where} used nearly all of the model's {slots} thing slots; objects may be missing"]


def find_thresholds(
    metadata: ArtifactMetadata, *, score_threshold: float | None, overlap_threshold: float | None
) -> dict[str, float]:
    """The thresholds that the artifact's kind uses, by name; its own where None.

    Raises:
        InvalidParameterError: a value out of 0..1, or one for a threshold that the kind does not use.
    """
    asked = {"score_threshold": score_threshold, "overlap_threshold": overlap_threshold}
    used = _THRESHOLDS_OF[metadata.kind]
    for name, value in asked.items():
        if value is not None and name not in used:
            raise InvalidParameterError(
                f"{metadata.name} is of kind {metadata.kind} and has no {name}; it takes {', '.join(used) or 'neither'}"
            )
    defaults = {"score_threshold": metadata.thresholds.score, "overlap_threshold": metadata.thresholds.overlap}
    return {name: _checked(name, asked[name], defaults[name]) for name in used}


def image_statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Mean and population standard deviation over all samples (H, W, 3) together, as the graph's inputs."""
    mean, std = mean_and_std(image)
    return {"pixel_mean": mean, "pixel_std": std}


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


def blank_inputs(metadata: ArtifactMetadata, batch: int, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """What the graph takes for that many black canvases of (height, width)."""
    scalars: dict[str, float] = find_thresholds(metadata, score_threshold=None, overlap_threshold=None)
    if metadata.uses_image_statistics:
        scalars = scalars | {"pixel_mean": 0.0, "pixel_std": 1.0}
    return {
        "image": np.zeros((batch, *size, 3), np.uint8),
        "valid_size": np.array([size] * batch, np.int32),
        **{name: np.full(batch, value, np.float32) for name, value in scalars.items()},
    }


def _content(cells: NDArray[Any], tile: Tile, stride: int) -> NDArray[Any]:
    """A canvas' map, cut to the cells that hold the tile's content."""
    return cells[: -(-tile.height // stride), : -(-tile.width // stride)]


def _checked(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not 0 <= value <= 1:  # NaN fails, too
        raise InvalidParameterError(f"{name} must lie in 0..1, not {value}")
    return value
