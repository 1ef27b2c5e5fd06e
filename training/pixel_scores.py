"""IoU of classes and pixel accuracy: the scores of the class map that segments joined by class give.

Legend: K classes, T true and P predicted segments of one image.

Void (ignored) pixels of the annotation do not count at all. A labelled pixel without a prediction is a miss of its
class, and false for none. A crowd's pixels are of its class. mIoU is the mean over the classes that occur, in the
annotation or in the prediction of labelled pixels.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.counts import Counts, ratio
from training.overlaps import Overlaps


@dataclass(frozen=True)
class PixelCounts(Counts):
    """Labelled pixels."""

    confusion: NDArray[np.int64]  # (K, K + 1) by true and predicted class; the last column is no prediction

    @classmethod
    def zero(cls, num_classes: int) -> Self:
        """Of no image."""
        return cls(np.zeros((num_classes, num_classes + 1), np.int64))

    @classmethod
    def of_image(cls, overlaps: Overlaps, num_classes: int) -> Self:
        """Of one image, whose segments lie apart."""
        result = cls.zero(num_classes)
        pairs = (overlaps.true_class_index[:, None], overlaps.class_index[None])
        np.add.at(result.confusion, pairs, overlaps.intersections)
        unpredicted = overlaps.true_areas - overlaps.intersections.sum(axis=1)
        np.add.at(result.confusion[:, -1], overlaps.true_class_index, unpredicted)
        return result

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of each class (K,), NaN where it does not occur."""
        hits = self.confusion.diagonal()
        return ratio(hits, self.confusion.sum(axis=1) + self.confusion.sum(axis=0)[:-1] - hits)

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that have their class; NaN without any."""
        return float(ratio(self.confusion.diagonal().sum(), self.confusion.sum()))
