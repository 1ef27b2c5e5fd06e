"""The formats that a job writes: what is kept of each image, its picture, and the files made of all at the end."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from batch import coco_files, parquet_file
from service import answers
from service.answers import Wish
from service.artifact import ArtifactMetadata
from service.instances import Instances, Result
from service.overlay import draw_overlay, panoptic_png
from service.pixels import gray_png, png

Format = Literal["coco-panoptic", "coco-instances", "semantic", "parquet", "overlay"]
Records = Callable[[], Iterator[dict[str, Any]]]  # of the images that did not fail, in the order of the job


@dataclass(frozen=True, kw_only=True)
class Sink:
    """One format.

    `task`: what models have to answer for it; None: whatever their kind is. `describe`: what the journal keeps of an
    image beside its size. `draw`: its picture, if there is one, which goes to `folder`. `finish`: makes the files that
    are about all images.
    """

    task: Literal["panoptic", "instance", "semantic"] | None = None
    folder: str = ""
    describe: Callable[[NDArray[np.uint8], Result, Wish, ArtifactMetadata], dict[str, Any]]
    draw: Callable[[NDArray[np.uint8], Result, ArtifactMetadata], bytes] | None = None
    finish: Callable[[Path, Records, ArtifactMetadata], None]


def _nothing(pixels: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    return {}


def _masks(pixels: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    return {"segments": answers.document(pixels, result, wish, metadata)["segments"]}


def _segments(pixels: NDArray[np.uint8], result: Result, wish: Wish, metadata: ArtifactMetadata) -> dict[str, Any]:
    """Without their masks, which are in the picture."""
    found = answers.document(pixels, result, wish, metadata)["segments"]
    return {"segments": [{name: one[name] for name in one if name != "segmentation"} for one in found]}


def _draw_ids(pixels: NDArray[np.uint8], result: Result, metadata: ArtifactMetadata) -> bytes:
    assert not isinstance(result, Instances)  # such models do not have the task
    return panoptic_png(result.id_map)


def _draw_categories(pixels: NDArray[np.uint8], result: Result, metadata: ArtifactMetadata) -> bytes:
    """Gray PNG of category ids, 255 where there is none; of 16 bits, and 65535, where an id is above 254."""
    assert not isinstance(result, Instances)
    is_wide = max(category.id for category in metadata.categories) >= 255
    table = np.full(len(result.segments) + 1, 65535 if is_wide else 255, np.uint16)
    for segment in result.segments:
        table[segment.id] = metadata.categories[segment.class_index].id
    return gray_png((table if is_wide else table.astype(np.uint8))[result.id_map])


def _draw_overlay(pixels: NDArray[np.uint8], result: Result, metadata: ArtifactMetadata) -> bytes:
    return png(draw_overlay(pixels, result, metadata, by_category=metadata.kind == "semantic"))


def _no_files(out: Path, records: Records, metadata: ArtifactMetadata) -> None:
    """The pictures are all."""


SINKS: dict[Format, Sink] = {
    "coco-panoptic": Sink(
        task="panoptic", folder="panoptic", describe=_segments, draw=_draw_ids, finish=coco_files.write_panoptic
    ),
    "coco-instances": Sink(task="instance", describe=_masks, finish=coco_files.write_instances),
    "semantic": Sink(
        task="semantic",
        folder="semantic",
        describe=_nothing,
        draw=_draw_categories,
        finish=coco_files.write_categories,
    ),
    "parquet": Sink(describe=_masks, finish=parquet_file.write),
    "overlay": Sink(folder="overlay", describe=_nothing, draw=_draw_overlay, finish=_no_files),
}
