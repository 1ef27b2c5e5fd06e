"""What a data set is to training and evaluation, whatever format it has on disk.

Legend: H, W image size, T segments, L layers.

Every format is read as segments: objects of things, and one region a stuff class. Kinds follow from it: an instance
network looks at the things alone, a semantic one at the class of each pixel. A pixel in no segment is void (ignored).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.config import Category, Kind

Split = Literal["train", "val", "test"]  # the last one is scored on demand; not every set has it
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class SegmentInfo:
    """What the annotation says about one id of an id-map."""

    id: int
    class_index: int
    is_crowd: bool


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The segments of one image. Segment i of `class_index` and `is_crowd` is i + 1 in `layers`."""

    layers: NDArray[np.int32]  # (L, H, W), 0 where a layer has no segment; overlapping segments lie in different layers
    class_index: NDArray[np.int64]  # (T,)
    is_crowd: NDArray[np.bool_]  # (T,)

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """The segments, with the ids that `layers` has."""
        known = zip(self.class_index.tolist(), self.is_crowd.tolist(), strict=True)
        return tuple(
            SegmentInfo(id=number, class_index=class_index, is_crowd=is_crowd)
            for number, (class_index, is_crowd) in enumerate(known, start=1)
        )


class Source(Protocol):
    """Where the annotation of one image is, and how it is read; each format has its own."""

    @property
    def path(self) -> Path:
        """The file, for messages."""

    def read(self, height: int, width: int) -> Annotation:
        """Read the annotation of an image of this size. Raises ValueError, naming the file and what to do."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One annotated image, not yet read."""

    image_path: Path
    source: Source
    height: int
    width: int
    group: str = ""  # images of one kind, for sampling and for scores of each kind; "" where the set has none


@dataclass(frozen=True, kw_only=True)
class DataIndex:
    """One split of a data set: what there is to read. `class_index` counts along `categories`.

    They are things, then stuff; semantic labels, in which nobody has counted objects, have stuff alone.
    """

    format: str  # "COCO panoptic", "COCO instances", "semantic PNG", "instance label maps"
    kind: Kind  # of network that it is made for
    categories: tuple[Category, ...]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()  # what was assumed or left out, for the report


def evenly_spaced(records: Sequence[Item], count: int | None) -> tuple[Item, ...]:
    """At most `count` of a list, always the same ones, from the first to the last; None: all."""
    if count is None or count >= len(records):
        return tuple(records)
    return tuple(records[place] for place in np.linspace(0, len(records) - 1, count).round().astype(int))
