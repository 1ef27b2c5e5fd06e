"""Predictions beside the annotation: a page of some images, and a picture of each of the worst."""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import Category
from service.image import decode
from service.instances import Instances, Result, stack
from training.data.index import Annotation, Record
from training.metrics import ImageScores, Plan, confident
from training.pictures import DrawnSegment, Picture, contact_sheet, draw_segments


class Drawer:
    """Draws image, annotation and prediction of one image, as a plan understands them."""

    def __init__(self, categories: Sequence[Category], plan: Plan, longest_side: int) -> None:
        self._categories = categories
        self._score_threshold = plan.score_threshold
        self._by_category = plan.main == "miou"
        self._longest_side = longest_side

    def tiles(self, content: bytes, prediction: Result, annotation: Annotation) -> list[Picture]:
        """The three pictures."""
        image = decode(content)
        shown = confident(prediction, self._score_threshold)
        id_map = stack(shown) if isinstance(shown, Instances) else shown.id_map
        return [
            self._draw(image, np.zeros((0, *image.shape[:2]), np.int32), ()),
            self._draw(image, annotation.layers, annotation.segments),
            self._draw(image, id_map[None], shown.segments),
        ]

    def captions(self, scores: ImageScores) -> list[str]:
        """One for each."""
        values = [f"{name} {scores.scores[name]:.2f}" for name in ("pq", "ap50", "miou") if name in scores.scores]
        return [scores.name, "annotation", f"prediction   {', '.join(values)}"]

    def _draw(self, image: Picture, layers: NDArray[np.int32], segments: Sequence[DrawnSegment]) -> Picture:
        options: dict[str, Any] = {"by_category": self._by_category, "longest_side": self._longest_side}
        return draw_segments(image, layers, segments, self._categories, **options)


class PredictionPage:
    """One PNG: a row for each of `records`, image, annotation and prediction."""

    NUM_IMAGES = 8
    _TILE = 320  # pixels

    def __init__(self, categories: Sequence[Category], plan: Plan, records: Sequence[Record]) -> None:
        self._drawer = Drawer(categories, plan, self._TILE)
        self._paths = {record.image_path for record in records}
        self._tiles: list[Picture] = []
        self._captions: list[str] = []

    def observe(
        self, record: Record, content: bytes, prediction: Result, annotation: Annotation, scores: ImageScores
    ) -> None:
        """Draw the image if it is one of the page's (`evaluate.Observer`)."""
        if record.image_path in self._paths:
            self._tiles += self._drawer.tiles(content, prediction, annotation)
            self._captions += self._drawer.captions(scores)

    def png(self) -> bytes:
        """The file."""
        return contact_sheet(self._tiles, self._captions, columns=3, tile_size=_tile_size(self._tiles, self._TILE))


class WorstPictures:
    """The images whose own score is lowest (`Plan.image_metric`); only their pictures are kept.

    An image without that score, as one in which nothing is annotated may be, is not among them.
    """

    _TILE = 640  # pixels

    def __init__(self, categories: Sequence[Category], plan: Plan, *, count: int) -> None:
        self._drawer = Drawer(categories, plan, self._TILE)
        self._metric, self._count = plan.image_metric, count
        self._kept: list[tuple[float, int, str, bytes]] = []  # a heap whose first is the best of them
        self._num_seen = 0

    def observe(
        self, record: Record, content: bytes, prediction: Result, annotation: Annotation, scores: ImageScores
    ) -> None:
        """Draw the image if it is among the worst so far (`evaluate.Observer`)."""
        value = scores.scores.get(self._metric)
        self._num_seen += 1
        if value is None or (len(self._kept) == self._count and -value <= self._kept[0][0]):
            return
        tiles = self._drawer.tiles(content, prediction, annotation)
        tile_size = _tile_size(tiles, self._TILE)
        picture = contact_sheet(tiles, self._drawer.captions(scores), columns=3, tile_size=tile_size)
        # Of images that score alike the first stays: a later one has the lower second entry.
        heapq.heappush(self._kept, (-value, -self._num_seen, record.image_path.stem, picture))
        if len(self._kept) > self._count:
            heapq.heappop(self._kept)

    def write(self, folder: Path) -> list[Path]:
        """One PNG for each, RANK_NAME.png, the worst first."""
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for rank, (_, _, name, picture) in enumerate(sorted(self._kept, reverse=True), start=1):
            files.append(folder / f"{rank:03}_{name}.png")
            files[-1].write_bytes(picture)
        return files


def _tile_size(tiles: Sequence[Picture], side: int) -> tuple[int, int]:
    """The least height and width that hold each of the tiles."""
    sizes = [tile.shape[:2] for tile in tiles]
    return max((height for height, _ in sizes), default=side), max((width for _, width in sizes), default=side)
