"""Scores of predicted segments: in all, of each group of images, each class and each image.

Legend: K classes.

PQ: training/panoptic_quality.py; AP of microscopy: training/object_ap.py; mIoU: training/pixel_scores.py; COCO's mask
AP: training/mask_ap.py. The first three are made of one table of an image's overlaps (training/overlaps.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.config import Category
from service.instances import Instances, Result
from training.counts import Counts, mean_of_defined
from training.data.index import Annotation
from training.mask_ap import MaskAP
from training.object_ap import AP_THRESHOLDS, ObjectCounts
from training.overlaps import find_overlaps
from training.panoptic_quality import PanopticCounts
from training.pixel_scores import PixelCounts

Metric = Literal["pq", "ap", "miou", "mask_ap"]  # "ap" is that of microscopy
_MAIN: tuple[Metric, ...] = ("pq", "mask_ap", "miou")  # the first that is measured chooses the best checkpoint

# An image's own scores, by what they are called in the summary of it.
_OF_IMAGE = {"pq": "pq", "sq": "sq", "rq": "rq", "ap50_mean": "ap50", "ap_mean": "ap", "miou": "miou"}
_OF_IMAGE |= {"pixel_accuracy": "pixel_accuracy"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how the annotation is to be understood."""

    metrics: frozenset[Metric]
    unlabelled_is_void: bool = True  # False: what no annotated object covers is known to be none
    score_threshold: float = 0.0  # overlapping instances of a lower score count in mask AP alone

    @property
    def main(self) -> Metric:
        """The score that chooses the best checkpoint."""
        return next(metric for metric in _MAIN if metric in self.metrics)

    @property
    def image_metric(self) -> str:
        """The one of an image's scores by which images are compared; mask AP ranks those of many images together."""
        return "ap" if self.main == "mask_ap" else self.main


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """One image's."""

    name: str
    group: str
    scores: dict[str, float]  # pq, sq, rq, ap50, ap, miou, pixel_accuracy, as far as they are measured and defined


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All scores, 0 to 1. One that is not defined, as that of stuff where none occurs, is left out.

    Of all images and of each group: num_images; pq, sq, rq, each also with _things and _stuff; ap50_pooled, ap50_mean
    and so on to ap90, and ap_pooled, ap_mean, their means; miou, pixel_accuracy; mask_ap and what
    `mask_ap.MaskScores` lists.
    """

    main: tuple[str, float]  # name and value of the score that chooses the best checkpoint; 0 where it is not defined
    summary: dict[str, float]
    groups: dict[str, dict[str, float]]  # by name; empty where the set has none
    classes: dict[str, dict[str, float]]  # pq, sq, rq, ap50, iou, mask_ap by category name, of the classes that occur
    images: tuple[ImageScores, ...]

    def to_json(self) -> dict[str, Any]:
        """Numbers and texts alone."""
        return {
            "main": {self.main[0]: self.main[1]},
            "all": self.summary,
            "groups": self.groups,
            "classes": self.classes,
            "ap_iou_thresholds": AP_THRESHOLDS,
            "images": [{"file": image.name, "group": image.group, **image.scores} for image in self.images],
        }


@dataclass(frozen=True)
class _Sums(Counts):
    """Of the images added; of a metric that is not measured they stay 0."""

    num_images: NDArray[np.int64]  # ()
    panoptic: PanopticCounts
    objects: ObjectCounts
    pixels: PixelCounts

    @classmethod
    def zero(cls, num_classes: int) -> "_Sums":
        kinds = (PanopticCounts.zero(num_classes), ObjectCounts.zero(num_classes), PixelCounts.zero(num_classes))
        return cls(np.zeros((), np.int64), *kinds)


class Evaluation:
    """Scores of the images added so far, whose class indices count along `categories`."""

    def __init__(self, categories: Sequence[Category], plan: Plan) -> None:
        self._categories = tuple(categories)
        self._plan = plan
        self._is_thing = np.array([category.is_thing for category in categories], np.bool_)
        self._groups: dict[str, _Sums] = {}
        self._images: list[ImageScores] = []
        self._masks = MaskAP(categories)

    def add(self, prediction: Result, annotation: Annotation, *, name: str = "", group: str = "") -> ImageScores:
        """Count one image; its own scores. Raises ValueError where prediction and annotation differ in size."""
        sums = self._count(prediction, annotation)
        self._groups[group] = self._groups[group] + sums if group in self._groups else sums
        if "mask_ap" in self._plan.metrics:
            self._masks.add(prediction, annotation, group=group)
        scores = self._summarise(sums)
        values = {short: scores[full] for full, short in _OF_IMAGE.items() if full in scores}
        self._images.append(ImageScores(name=name, group=group, scores=values))
        return self._images[-1]

    def scores(self) -> Scores:
        """Of all images added."""
        sums = sum(self._groups.values(), _Sums.zero(len(self._categories)))
        summary, classes = self._summarise(sums), self._by_class(sums)
        groups = {group: self._summarise(self._groups[group]) for group in sorted(self._groups) if group}
        if "mask_ap" in self._plan.metrics:
            masks = self._masks.score()
            summary |= masks.summary
            classes["mask_ap"] = masks.by_class
            groups = {group: of_group | self._masks.score(group).summary for group, of_group in groups.items()}
        return Scores(
            main=(self._plan.main, summary.get(self._plan.main, 0.0)),
            summary=summary,
            groups=groups,
            classes=self._named(classes),
            images=tuple(self._images),
        )

    def _count(self, prediction: Result, annotation: Annotation) -> _Sums:
        metrics, num_classes = self._plan.metrics, len(self._categories)
        sums = _Sums.zero(num_classes)
        shown = confident(prediction, self._plan.score_threshold)
        overlaps = find_overlaps(shown, annotation, unlabelled_is_void=self._plan.unlabelled_is_void)
        return _Sums(
            num_images=sums.num_images + 1,
            panoptic=PanopticCounts.of_image(overlaps, num_classes) if "pq" in metrics else sums.panoptic,
            objects=ObjectCounts.of_image(overlaps.of_classes(self._is_thing), num_classes)
            if "ap" in metrics
            else sums.objects,
            pixels=PixelCounts.of_image(overlaps, num_classes) if "miou" in metrics else sums.pixels,
        )

    def _summarise(self, sums: _Sums) -> dict[str, float]:
        """All but mask AP; as nothing was counted of the metrics that are not measured, theirs are not defined."""
        values = {"num_images": float(sums.num_images)}
        of_classes = {"pq": sums.panoptic.pq, "sq": sums.panoptic.sq, "rq": sums.panoptic.rq}
        for suffix, chosen in (("", self._is_thing | True), ("_things", self._is_thing), ("_stuff", ~self._is_thing)):
            values |= {name + suffix: mean_of_defined(of[chosen]) for name, of in of_classes.items()}
        for kind, of_thresholds in (("pooled", sums.objects.pooled), ("mean", sums.objects.mean)):
            for threshold, value in zip(AP_THRESHOLDS, of_thresholds, strict=True):
                values[f"ap{100 * threshold:.0f}_{kind}"] = float(value)
            values[f"ap_{kind}"] = mean_of_defined(of_thresholds)
        values |= {"miou": mean_of_defined(sums.pixels.iou), "pixel_accuracy": sums.pixels.accuracy}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def _by_class(self, sums: _Sums) -> dict[str, NDArray[np.float64]]:
        """Each (K,), NaN where it is not defined."""
        panoptic = sums.panoptic
        first_ap = sums.objects.by_class[0]
        return {"pq": panoptic.pq, "sq": panoptic.sq, "rq": panoptic.rq, "ap50": first_ap, "iou": sums.pixels.iou}

    def _named(self, of_classes: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
        named = {
            category.name: {name: float(of[index]) for name, of in of_classes.items() if np.isfinite(of[index])}
            for index, category in enumerate(self._categories)
        }
        return {name: scores for name, scores in named.items() if scores}


def confident(result: Result, score_threshold: float) -> Result:
    """The result without overlapping instances of a lower score; a map of segments has passed its thresholds."""
    if not isinstance(result, Instances):
        return result
    kept = sum(segment.score >= score_threshold for segment in result.segments)  # the best are first
    return replace(result, segments=result.segments[:kept], counts=result.counts[:kept])
