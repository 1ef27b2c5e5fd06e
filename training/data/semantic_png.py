"""Semantic label images: the class of each pixel, as a number (gray or palette) or as a colour.

Each class that is present is one stuff segment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.index import Annotation
from training.data.label_file import read_label_image, unique_codes
from training.data.size import check_label_size


@dataclass(frozen=True, kw_only=True)
class ClassCode:
    """How classes are written: the class index of each number or colour (as R + 256 G + 65536 B), or None for void."""

    is_colour: bool
    class_of: Mapping[int, int | None]

    def describe(self, codes: Sequence[int]) -> str:
        """Numbers or colours, for people."""
        return ", ".join(colour_text(code) if self.is_colour else str(code) for code in codes)


@dataclass(frozen=True, kw_only=True)
class SemanticSource:
    """A label image; all of a data set share one code."""

    path: Path
    code: ClassCode

    def read(self, height: int, width: int) -> Annotation:
        """Read the labels. Raises ValueError where the size is another, or a number or colour is not described."""
        labels = read_codes(self.path, is_colour=self.code.is_colour)
        check_label_size(self.path, labels.shape, (height, width))
        codes, numbers = unique_codes(labels)
        unknown = [code for code in codes if code not in self.code.class_of]
        if unknown:
            what, void = ("colours", "ignore_colour") if self.code.is_colour else ("values", "ignore_index")
            raise ValueError(
                f"{self.path} holds {what} that no category has: {self.code.describe(unknown[:5])}; add them to "
                f'"categories" in data.json, or set "{void}" to them'
            )
        classes = [self.code.class_of[code] for code in codes]
        present = sorted({index for index in classes if index is not None})
        ids = np.array([0 if index is None else present.index(index) + 1 for index in classes], np.int32)
        return Annotation(
            layers=ids[numbers].reshape(1, height, width),
            class_index=np.array(present, np.int64),
            is_crowd=np.zeros(len(present), np.bool_),
        )


def read_codes(path: Path, *, is_colour: bool) -> NDArray[np.integer]:
    """Numbers (H, W) of a label image, or its colours as numbers (H, W). Raises ValueError where it has the other."""
    labels = read_label_image(path, palette_as_colours=is_colour)
    if is_colour and labels.ndim == 2:
        raise ValueError(f"{path} holds numbers, others of this data set or its categories have colours: replace it")
    if not is_colour and labels.ndim == 3:
        if not ((labels[..., 0] == labels[..., 1]) & (labels[..., 0] == labels[..., 2])).all():
            raise ValueError(
                f'{path} holds colours, the categories have values: give each a "colour", or write the file as gray'
            )
        return labels[..., 0]  # gray, stored three times
    if not is_colour:
        return labels
    return labels[..., 0] + labels[..., 1].astype(np.int32) * 256 + labels[..., 2].astype(np.int32) * 65536


def colour_text(code: int) -> str:
    """A colour as it is named where the data set does not: 0-255-0."""
    return f"{code & 255}-{code >> 8 & 255}-{code >> 16}"


def colour_code(colour: Sequence[int]) -> int:
    """R + 256 G + 65536 B."""
    red, green, blue = colour
    return red + 256 * green + 65536 * blue
