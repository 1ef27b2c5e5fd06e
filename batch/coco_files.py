"""COCO's JSON files, written an image at a time: a million images are no more in memory than one."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from batch.durable import replacing
from service.artifact import ArtifactMetadata

_Records = Callable[[], Iterator[dict[str, Any]]]


def write_panoptic(out: Path, records: _Records, metadata: ArtifactMetadata) -> None:
    """`out`/panoptic.json, to the PNGs in `out`/panoptic."""
    annotations = (
        {
            "image_id": record["id"],
            "file_name": f"{record['stem']}.png",
            "segments_info": [_segment_info(segment) for segment in record["segments"]],
        }
        for record in records()
    )
    with replacing(out / "panoptic.json") as file:
        _write(file, images=_images(records), annotations=annotations, categories=_categories(metadata))


def write_instances(out: Path, records: _Records, metadata: ArtifactMetadata) -> None:
    """`out`/instances.json, with run-length codes."""
    things = [category for category in _categories(metadata) if category["isthing"]]
    with replacing(out / "instances.json") as file:
        _write(file, images=_images(records), annotations=_instances(records), categories=things)


def write_categories(out: Path, records: _Records, metadata: ArtifactMetadata) -> None:
    """`out`/categories.json: what the values of semantic PNGs mean."""
    with replacing(out / "categories.json") as file:
        file.write(orjson.dumps(_categories(metadata), option=orjson.OPT_INDENT_2) + b"\n")


def _images(records: _Records) -> Iterator[dict[str, Any]]:
    return (
        {"id": one["id"], "file_name": one["name"], "height": one["height"], "width": one["width"]} for one in records()
    )


def _segment_info(segment: dict[str, Any]) -> dict[str, Any]:
    return {name: segment[name] for name in ("id", "category_id", "area", "bbox", "score")} | {"iscrowd": 0}


def _instances(records: _Records) -> Iterator[dict[str, Any]]:
    number = 0
    for record in records():
        for segment in record["segments"]:
            number += 1
            kept = {name: segment[name] for name in ("category_id", "segmentation", "area", "bbox", "score")}
            yield {"id": number, "image_id": record["id"], "iscrowd": 0, **kept}


def _categories(metadata: ArtifactMetadata) -> list[dict[str, Any]]:
    return [
        {"id": one.id, "name": one.name, "supercategory": one.name, "isthing": int(one.is_thing), "color": one.colour}
        for one in metadata.categories
    ]


def _write(file: IO[bytes], **lists: Iterable[dict[str, Any]]) -> None:
    """An object of lists, an entry a line."""
    start = b'{"info": {"description": "segmented by K-Net Serve"}'
    for name, entries in lists.items():
        file.write(start + f',\n"{name}": ['.encode())
        separator = b"\n"
        for entry in entries:
            file.write(separator + orjson.dumps(entry))
            separator = b",\n"
        start = b"\n]"
    file.write(start + b"}\n")
