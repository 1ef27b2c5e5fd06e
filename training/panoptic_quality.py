"""PQ, SQ and RQ, as "Panoptic Segmentation" (Kirillov et al., 2019) defines them and COCO's panopticapi counts them.

Legend: K classes, T true and P predicted segments of one image.

A true and a predicted segment of one class match at IoU > 0.5, where void is in no union. A predicted segment
without a match is false, unless more than half of it is void or crowd of its class; a true one is missed, unless it is
a crowd. Of each class PQ = (sum of the matches' IoU) / (TP + FP / 2 + FN / 2) = SQ * RQ; the scores of a set are means
over the classes that occur, in the annotation or in the predictions that count.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.counts import Counts, ratio
from training.overlaps import Overlaps

_MATCH_IOU = 0.5  # above it a match is one to one by itself, as segments lie apart


@dataclass(frozen=True)
class PanopticCounts(Counts):
    """Each (K,)."""

    iou_sum: NDArray[np.float64]  # over the matches
    matched: NDArray[np.int64]  # true positives
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]

    @classmethod
    def zero(cls, num_classes: int) -> Self:
        """Of no image."""
        return cls(np.zeros(num_classes), *(np.zeros(num_classes, np.int64) for _ in range(3)))

    @classmethod
    def of_image(cls, overlaps: Overlaps, num_classes: int) -> Self:
        """Of one image."""
        iou = overlaps.iou
        match = iou > _MATCH_IOU
        true_class, true_matched = overlaps.true_class_index, match.any(axis=1)
        wrong = overlaps.may_be_false & ~match.any(axis=0)
        missed = overlaps.may_be_missed & ~true_matched
        return cls(
            iou_sum=np.bincount(true_class, (iou * match).sum(axis=1), minlength=num_classes).astype(np.float64),
            matched=np.bincount(true_class[true_matched], minlength=num_classes),
            false_positives=np.bincount(overlaps.class_index[wrong], minlength=num_classes),
            false_negatives=np.bincount(true_class[missed], minlength=num_classes),
        )

    @property
    def pq(self) -> NDArray[np.float64]:
        """Of each class (K,), NaN where it does not occur."""
        return ratio(self.iou_sum, self._denominator)

    @property
    def rq(self) -> NDArray[np.float64]:
        """Likewise: how well segments are found."""
        return ratio(self.matched, self._denominator)

    @property
    def sq(self) -> NDArray[np.float64]:
        """Likewise: mean IoU of the matches; 0 for a class that occurs but has none."""
        return np.where(np.isfinite(self.rq), np.nan_to_num(ratio(self.iou_sum, self.matched)), np.nan)

    @property
    def _denominator(self) -> NDArray[np.float64]:
        return np.asarray(self.matched + (self.false_positives + self.false_negatives) / 2, np.float64)
