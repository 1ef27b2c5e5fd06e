"""What the model sees in a slide: rows of tiles, one or two of which are in memory, and what is kept of each on disk.

The rows that an earlier process has finished are not done again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from batch.durable import replacing, write_bytes
from batch.slide_file import SlideFile
from batch.workers import for_each
from service.geometry import Plan
from service.join import TileResult

# The results of a row of tiles: of its pixels (H, W, 3), laid out by a plan, and the values that all tiles share.
ReadTiles = Callable[[NDArray[np.uint8], Plan, Mapping[str, float]], list[TileResult]]

_THREADS = 2  # while the engine has one row's tiles, another row is decoded
_PIXELS_AT_ONCE = 2**20
_STRIP_ROWS = 512


def slide_statistics(slide: SlideFile, work: Path, check: Callable[[], None]) -> dict[str, float]:
    """`image_statistics` of the whole slide, by reading it once, or from `work` if an earlier process has.

    `check` raises what ends the work.
    """
    path = work / "statistics.json"
    if not path.exists():
        counts = np.zeros(256, np.int64)
        for top in range(0, slide.size[0], _STRIP_ROWS):
            check()
            samples = slide.read_rows(top, min(top + _STRIP_ROWS, slide.size[0])).ravel()
            for begin in range(0, len(samples), _PIXELS_AT_ONCE):
                counts += np.bincount(samples[begin : begin + _PIXELS_AT_ONCE], minlength=256)
        mean, std = _mean_and_std(counts)
        write_bytes(path, orjson.dumps({"pixel_mean": mean, "pixel_std": std}))
    return {name: float(value) for name, value in orjson.loads(path.read_bytes()).items()}


def segment_rows(
    slide: SlideFile,
    plan: Plan,
    values: Mapping[str, float],
    read_tiles: ReadTiles,
    work: Path,
    *,
    told: Callable[[int], None],
    stop: Callable[[], None],
) -> None:
    """Write the results of all rows of tiles into `work`.

    Args:
        plan: of the slide.
        values: what all tiles share.
        told: is told how many rows are done, after each.
        stop: ends the work of other threads, when one has failed.

    Raises:
        ServiceError: the slide is damaged, or the engine fails.
        OSError: a file cannot be read or written.
    """
    pending = [row for row in range(plan.num_rows) if not _path(work, row).exists()]
    told(plan.num_rows - len(pending))

    def do(row: int) -> None:
        band = _plan_row(plan, row)
        top = plan.tiles[row * plan.num_columns].top
        results = read_tiles(slide.read_rows(top, top + band.image_size[0]), band, values)
        _save(_path(work, row), results)
        told(1)

    for_each(do, pending, _THREADS, stop=stop)


def stored_rows(plan: Plan, work: Path) -> Iterator[list[TileResult]]:
    """The results of each row of tiles, from top to bottom."""
    for row in range(plan.num_rows):
        yield _load(_path(work, row))


def _plan_row(plan: Plan, row: int) -> Plan:
    """A plan of one row of tiles, whose pixels are all that there is."""
    tiles = plan.tiles[row * plan.num_columns : (row + 1) * plan.num_columns]
    size = tiles[0].height, plan.image_size[1]
    tiles = tuple(replace(tile, top=0) for tile in tiles)
    return replace(plan, image_size=size, scaled_size=size, num_rows=1, tiles=tiles)


def _path(work: Path, row: int) -> Path:
    return work / f"row{row:05}.npz"


def _save(path: Path, results: list[TileResult]) -> None:
    with replacing(path) as file:
        np.savez_compressed(
            file,
            # A tile has as many ids as the model has slots, which 16 bits hold.
            id_map=np.stack([result.id_map.astype(np.uint16) for result in results]),
            count=np.array([len(result.class_index) for result in results]),
            class_index=np.concatenate([result.class_index for result in results]),
            score=np.concatenate([result.score for result in results]),
            is_thing=np.concatenate([result.is_thing for result in results]),
        )


def _load(path: Path) -> list[TileResult]:
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    cuts = np.cumsum(arrays["count"])[:-1]
    lists = [np.split(arrays[name], cuts) for name in ("class_index", "score", "is_thing")]
    return [
        TileResult(id_map=id_map, class_index=class_index, score=score, is_thing=is_thing)
        for id_map, class_index, score, is_thing in zip(arrays["id_map"], *lists, strict=True)
    ]


def _mean_and_std(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Of samples, by how often there is each value; rounded as OpenCV rounds, which does it for images in memory."""
    levels = np.arange(256)
    scale = 1.0 / int(counts.sum())
    mean = int((counts * levels).sum()) * scale
    return mean, float(np.sqrt(max(int((counts * levels**2).sum()) * scale - mean * mean, 0.0)))
