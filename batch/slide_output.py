"""The files of a slide, written as its bands come: a tiled TIFF of ids, and a Parquet table with a row an object."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from batch.durable import replacing
from batch.parquet_file import segment_fields
from batch.slide_file import Resolution
from batch.slide_objects import Bands, SlideObjects
from service import rle
from service.answers import SCORE_DECIMALS
from service.artifact import ArtifactMetadata

TILE = 512
_BYTES_AT_ONCE = 2**24  # of ids that are compressed together
_ROWS = 20_000  # objects in a row group of the table
_MAX_MASK_PIXELS = 2**22  # of an object's box; masks of larger ones are in the TIFF alone


def write_slide(
    labels: Path,
    table: Path,
    bands: Bands,
    objects: SlideObjects,
    size: tuple[int, int],
    metadata: ArtifactMetadata,
    *,
    resolution: Resolution | None,
    has_scores: bool,
) -> None:
    """Write both files in one pass over the bands.

    Args:
        labels, table: where to.
        bands: labels of all rows (H, W) of pixels.
        objects: of these labels.
        size: height and width.
        metadata: names the categories.
        resolution: of the slide, if it has one.
        has_scores: whether the objects' scores mean anything.
    """
    import pyarrow.parquet

    with (
        replacing(labels) as label_file,
        replacing(table) as table_file,
        pyarrow.parquet.ParquetWriter(table_file, _schema(), compression="zstd") as writer,
        tifffile.TiffWriter(label_file, bigtiff=True) as tiff,
    ):
        rows = _TableRows(objects, metadata, writer, has_scores=has_scores)
        tiff.write(
            _tiles(_with_ids(bands, objects, rows), size),
            shape=size,
            dtype=np.uint32,
            tile=(TILE, TILE),
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": 1},
            metadata=None,
            software="K-Net Serve",
            buffersize=_BYTES_AT_ONCE,
            resolution=(resolution.horizontal, resolution.vertical) if resolution else None,
            resolutionunit=resolution.unit if resolution else None,
        )
        rows.close()


def _with_ids(bands: Bands, objects: SlideObjects, rows: "_TableRows") -> Iterator[NDArray[np.uint32]]:
    """Ids (h, W) of each band, which the table sees, too."""
    for top, band in bands:
        ids = objects.id_of[band]
        rows.add(top, ids)
        yield ids.view(np.uint32)


def _tiles(bands: Iterator[NDArray[np.uint32]], size: tuple[int, int]) -> Iterator[NDArray[np.uint32]]:
    """Tiles from left to right and from top to bottom, those at the edges filled up with 0."""
    width = -(-size[1] // TILE) * TILE
    strip = np.zeros((TILE, width), np.uint32)
    filled = 0
    for band in bands:
        while len(band):
            taken = band[: TILE - filled]
            strip[filled : filled + len(taken), : size[1]] = taken
            filled += len(taken)
            band = band[len(taken) :]
            if filled == TILE:
                yield from _cut(strip)
                filled = 0
    if filled:
        strip[filled:] = 0
        yield from _cut(strip)


def _cut(strip: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """Copies, as the strip is filled anew while they are compressed."""
    return (strip[:, left : left + TILE].copy() for left in range(0, strip.shape[1], TILE))


class _TableRows:
    """Rows of the table, an object's as soon as its last pixels have come; holds the masks of those that are begun."""

    def __init__(self, objects: SlideObjects, metadata: ArtifactMetadata, writer: Any, *, has_scores: bool) -> None:
        self._objects = objects
        self._metadata = metadata
        self._writer = writer
        self._has_scores = has_scores
        self._by_top = np.argsort(objects.box[:, 1], kind="stable")[::-1].tolist()  # positions, the first at the end
        self._open: dict[int, list[NDArray[np.bool_]]] = {}  # parts of masks by position
        self._rows: list[dict[str, Any]] = []

    def add(self, top: int, ids: NDArray[np.int32]) -> None:
        """See the next band of ids (h, W)."""
        bottom = top + len(ids)
        box = self._objects.box
        while self._by_top and box[self._by_top[-1], 1] < bottom:
            self._open[self._by_top.pop()] = []
        for position in list(self._open):
            x, y, width, height = box[position].tolist()
            if self._has_mask(position):
                part = ids[max(y - top, 0) : y + height - top, x : x + width] == position + 1
                self._open[position].append(part)
            if y + height <= bottom:
                self._rows.append(self._describe(position, self._open.pop(position)))
        if len(self._rows) >= _ROWS:
            self._write()

    def close(self) -> None:
        """Write the last rows."""
        if self._rows:
            self._write()

    def _has_mask(self, position: int) -> bool:
        category = self._metadata.categories[self._objects.class_index[position]]
        width, height = self._objects.box[position, 2:].tolist()
        return category.is_thing and bool(width * height <= _MAX_MASK_PIXELS)

    def _describe(self, position: int, parts: list[NDArray[np.bool_]]) -> dict[str, Any]:
        objects = self._objects
        category = self._metadata.categories[objects.class_index[position]]
        return {
            "id": position + 1,
            "category_id": category.id,
            "category": category.name,
            "is_thing": category.is_thing,
            "score": round(float(objects.score[position]), SCORE_DECIMALS) if self._has_scores else None,
            "area": int(objects.area[position]),
            "bbox": objects.box[position].tolist(),
            "counts": rle.encode(np.concatenate(parts).view(np.uint8), [1])[0] if parts else None,
        }

    def _write(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, _schema()))
        self._rows.clear()


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(segment_fields())
