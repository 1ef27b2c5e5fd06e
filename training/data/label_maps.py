"""Instance label maps: an image of numbers for each image, 0 for the background and another for each object."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.config import Category
from training.data.index import Annotation
from training.data.label_file import read_label_image, unique_codes
from training.data.size import check_label_size

# Where a data set does not name them.
CATEGORIES = (
    Category(id=1, name="object", is_thing=True, colour=(235, 108, 36)),
    Category(id=2, name="background", is_thing=False, colour=(40, 44, 52)),
)


@dataclass(frozen=True, kw_only=True)
class LabelMapSource:
    """A label map. Objects are of class 0, the background is of class 1."""

    path: Path
    ignore_index: tuple[int, ...] = ()  # numbers of pixels that are void

    def read(self, height: int, width: int) -> Annotation:
        """Read the map. Raises ValueError where it holds colours or has another size."""
        labels = read_label_image(self.path)
        if labels.ndim != 2:
            raise ValueError(
                f"{self.path} holds colours; an instance label map has one number a pixel. "
                'If the colours are classes, say "format": "semantic" in data.json'
            )
        check_label_size(self.path, labels.shape, (height, width))
        found, numbers = unique_codes(labels)
        values = np.array(found)
        if values[0] < 0:
            raise ValueError(f"{self.path} holds the number {values[0]}; legal: 0 for background, 1 and above")
        is_object = (values != 0) & ~np.isin(values, self.ignore_index)
        ids = np.where(is_object, np.cumsum(is_object), 0).astype(np.int32)
        num_objects = int(is_object.sum())
        has_background = bool(values[0] == 0 and 0 not in self.ignore_index)
        if has_background:
            ids[0] = num_objects + 1
        return Annotation(
            layers=ids[numbers].reshape(1, height, width),
            class_index=np.array([0] * num_objects + [1] * has_background, np.int64),
            is_crowd=np.zeros(num_objects + has_background, np.bool_),
        )
