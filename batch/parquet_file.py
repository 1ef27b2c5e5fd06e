"""All masks of a job in a Parquet file: a row an image, in it a list of segments with their run-length codes."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from batch.durable import replacing
from service.artifact import ArtifactMetadata

_ROWS = 500  # images in a row group: what is in memory at once


def write(out: Path, records: Callable[[], Iterator[dict[str, Any]]], metadata: ArtifactMetadata) -> None:
    """`out`/segments.parquet."""
    import pyarrow
    import pyarrow.parquet

    schema = _schema()
    rows = (
        {
            "image_id": record["id"],
            "file_name": record["name"],
            "height": record["height"],
            "width": record["width"],
            "segments": [{**one, "counts": one["segmentation"]["counts"]} for one in record["segments"]],
        }
        for record in records()
    )
    with (
        replacing(out / "segments.parquet") as file,
        pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        while group := list(islice(rows, _ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def segment_fields() -> list[tuple[str, Any]]:
    """Name and type of what is known of a segment."""
    import pyarrow as pa

    return [
        ("id", pa.int32()),
        ("category_id", pa.int32()),
        ("category", pa.string()),
        ("is_thing", pa.bool_()),
        ("score", pa.float64()),
        ("area", pa.int64()),
        ("bbox", pa.list_(pa.int32(), 4)),
        ("counts", pa.string()),
    ]


def _schema() -> Any:
    import pyarrow as pa

    segment = pa.struct(segment_fields())
    return pa.schema(
        [
            ("image_id", pa.int64()),
            ("file_name", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("segments", pa.list_(segment)),
        ]
    )
