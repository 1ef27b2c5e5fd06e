"""AP as microscopy reports it: TP / (TP + FP + FN) of objects matched one to one at an IoU threshold.

Legend: K classes, T true and P predicted segments of one image, I thresholds.

It needs no ranking by score: predictions are taken as they are answered. StarDist's paper tabulates it at IoU 0.50 to
0.90 in steps of 0.05; the Data Science Bowl of 2018 averaged over 0.50 to 0.95. "pooled" counts
the objects of all images together, "mean" is the mean of the images' values; an image with neither objects nor
predictions counts 1 in it, as it was got right.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from training.counts import Counts, ratio
from training.overlaps import Overlaps

AP_THRESHOLDS = tuple(percent / 100 for percent in range(50, 95, 5))  # an IoU must exceed them


@dataclass(frozen=True)
class ObjectCounts(Counts):
    """Of the things."""

    outcomes: NDArray[np.int64]  # (I, K, 3): true positives, false positives, false negatives
    image_ap_sum: NDArray[np.float64]  # (I,)
    num_images: NDArray[np.int64]  # ()

    @classmethod
    def zero(cls, num_classes: int) -> Self:
        """Of no image."""
        num_thresholds = len(AP_THRESHOLDS)
        return cls(
            np.zeros((num_thresholds, num_classes, 3), np.int64), np.zeros(num_thresholds), np.zeros((), np.int64)
        )

    @classmethod
    def of_image(cls, things: Overlaps, num_classes: int) -> Self:
        """Of one image, from the segments of things alone."""
        iou = things.iou
        outcomes = np.zeros((len(AP_THRESHOLDS), num_classes, 3), np.int64)
        for of_threshold, threshold in zip(outcomes, AP_THRESHOLDS, strict=True):
            true_matched, matched = match_one_to_one(iou, threshold)
            kinds = (
                things.true_class_index[true_matched],
                things.class_index[things.may_be_false & ~matched],
                things.true_class_index[things.may_be_missed & ~true_matched],
            )
            of_threshold[:] = np.stack([np.bincount(classes, minlength=num_classes) for classes in kinds], axis=1)
        return cls(outcomes, np.nan_to_num(_ap(outcomes.sum(axis=1)), nan=1.0), np.ones((), np.int64))

    @property
    def occur(self) -> bool:
        """Whether there was any object, true or predicted."""
        return bool(self.outcomes.any())

    @property
    def pooled(self) -> NDArray[np.float64]:
        """AP of all objects (I,); NaN where there is none."""
        return _ap(self.outcomes.sum(axis=1))

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean AP of the images (I,); NaN without any object."""
        return ratio(self.image_ap_sum, self.num_images) if self.occur else np.full(len(AP_THRESHOLDS), np.nan)

    @property
    def by_class(self) -> NDArray[np.float64]:
        """AP of all objects of each class (I, K)."""
        return _ap(self.outcomes)


def match_one_to_one(iou: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which true (T,) and predicted (P,) segments match: as many pairs of IoU (T, P) > `threshold` as can be.

    Among segments that lie apart a pair excludes all others by itself; masks that overlap are assigned.
    """
    can = iou > threshold
    if (can.sum(axis=0) > 1).any() or (can.sum(axis=1) > 1).any():
        rows, columns = linear_sum_assignment(can, maximize=True)
        chosen = np.zeros_like(can)
        chosen[rows, columns] = can[rows, columns]
        can = chosen
    return np.asarray(can.any(axis=1)), np.asarray(can.any(axis=0))


def _ap(outcomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Outcomes (..., 3) -> AP (...)."""
    return ratio(outcomes[..., 0], outcomes.sum(axis=-1))
