"""How the predicted segments of one image lie on the annotated ones: the table that its scores are made of.

Legend: H, W pixels, L layers, T true and P predicted segments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service import rle
from service.instances import Instances, Result
from service.segments import Segmentation
from training.data.index import Annotation


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """Areas in pixels, of one image."""

    intersections: NDArray[np.int64]  # (T, P)
    areas: NDArray[np.int64]  # (P,)
    in_void: NDArray[np.int64]  # (P,) pixels of each that count neither for nor against it
    class_index: NDArray[np.int64]  # (P,)
    true_areas: NDArray[np.int64]  # (T,)
    true_class_index: NDArray[np.int64]  # (T,)
    is_crowd: NDArray[np.bool_]  # (T,)

    @property
    def is_same_class(self) -> NDArray[np.bool_]:
        """Which pairs (T, P) are of one class."""
        return np.asarray(self.true_class_index[:, None] == self.class_index)

    @property
    def iou(self) -> NDArray[np.float64]:
        """IoU (T, P) of segments of one class; 0 for other pairs and for crowds. Void is in no union."""
        unions = self.true_areas[:, None] + self.areas - self.intersections - self.in_void
        may_match = self.is_same_class & ~self.is_crowd[:, None]
        return np.asarray(self.intersections / np.maximum(unions, 1) * may_match, np.float64)

    @property
    def may_be_false(self) -> NDArray[np.bool_]:
        """Which predicted segments (P,) are false without a match: at most half in void or crowds of their class."""
        in_crowds = (self.intersections * (self.is_same_class & self.is_crowd[:, None])).sum(axis=0)
        return np.asarray((self.areas > 0) & (self.in_void + in_crowds <= 0.5 * self.areas))

    @property
    def may_be_missed(self) -> NDArray[np.bool_]:
        """Which true segments (T,) are missed without a match: all but crowds."""
        return np.asarray(~self.is_crowd)

    def of_classes(self, is_wanted: NDArray[np.bool_]) -> "Overlaps":
        """Only the segments whose class index has a True in `is_wanted` (K,)."""
        true, predicted = is_wanted[self.true_class_index], is_wanted[self.class_index]
        return Overlaps(
            intersections=self.intersections[true][:, predicted],
            areas=self.areas[predicted],
            in_void=self.in_void[predicted],
            class_index=self.class_index[predicted],
            true_areas=self.true_areas[true],
            true_class_index=self.true_class_index[true],
            is_crowd=self.is_crowd[true],
        )


def find_overlaps(prediction: Result, annotation: Annotation, *, unlabelled_is_void: bool) -> Overlaps:
    """Count the pixels that each pair of segments shares.

    Args:
        prediction: segments are numbered from 1; those of `Instances` may overlap.
        annotation: of the same size.
        unlabelled_is_void: pixels in no true segment count neither for nor against a prediction. False where only
            objects are annotated, so that everything else is known to be none.

    Raises ValueError where the sizes differ.
    """
    layers = annotation.layers
    size = prediction.image_size if isinstance(prediction, Instances) else prediction.id_map.shape
    if size != layers.shape[1:]:
        ours, theirs = (f"{width}x{height}" for height, width in (size, layers.shape[1:]))
        raise ValueError(f"the prediction is {ours} pixels (width x height), the annotation {theirs}")
    num_true = len(annotation.class_index)
    if isinstance(prediction, Instances):
        table = _count_masks(prediction, layers, num_true)
        areas = np.array([segment.area for segment in prediction.segments], np.int64)
    else:
        table = _count_map(prediction, layers, num_true)
        areas = np.bincount(prediction.id_map.ravel(), minlength=len(prediction.segments) + 1)[1:]
    return Overlaps(
        intersections=table[1:],
        areas=areas,
        in_void=table[0] if unlabelled_is_void else np.zeros_like(areas),
        class_index=np.array([segment.class_index for segment in prediction.segments], np.int64),
        true_areas=np.bincount(layers.ravel(), minlength=num_true + 1)[1:],
        true_class_index=np.asarray(annotation.class_index, np.int64),
        is_crowd=np.asarray(annotation.is_crowd, np.bool_),
    )


def _count_map(prediction: Segmentation, layers: NDArray[np.int32], num_true: int) -> NDArray[np.int64]:
    """Shared pixels (T + 1, P) with an id-map; row 0 is what no true segment holds."""
    ids, num_predicted = prediction.id_map, len(prediction.segments)
    if ids.size and int(ids.max()) > num_predicted:
        raise ValueError(f"the predicted id-map holds id {ids.max()}, but there are {num_predicted} segments")
    shape = (num_true + 1, num_predicted + 1)
    table = np.zeros(shape, np.int64)
    for layer in layers:
        pairs = layer.astype(np.int64) * shape[1] + ids
        table += np.bincount(pairs.ravel(), minlength=table.size).reshape(shape)
    table[0] = np.bincount(ids[(layers == 0).all(axis=0)], minlength=shape[1])
    return table[:, 1:]


def _count_masks(prediction: Instances, layers: NDArray[np.int32], num_true: int) -> NDArray[np.int64]:
    """The same with masks that may overlap, one after the other."""
    table = np.zeros((num_true + 1, len(prediction.segments)), np.int64)
    for column, (segment, counts) in enumerate(zip(prediction.segments, prediction.counts, strict=True)):
        x, y, width, height = segment.bbox
        window = slice(y, y + height), slice(x, x + width)
        inside = layers[:, *window][:, rle.decode(counts, prediction.image_size)[window]]
        table[:, column] = np.bincount(inside.ravel(), minlength=num_true + 1)
        table[0, column] = (inside == 0).all(axis=0).sum()
    return table
