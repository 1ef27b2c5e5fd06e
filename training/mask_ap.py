"""Mask AP as COCO defines it, computed by COCO's own program on annotations and predictions in memory.

Precision over recall of masks ranked by score, at IoU 0.50:0.95, of up to 100 masks an image; a prediction in a crowd
counts neither for nor against. Sizes (small, medium, large) go by the pixels of the annotated mask. The run lengths of
all masks are kept until the end: AP ranks the predictions of all images together.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from model.config import Category
from service import rle
from service.instances import Instances, Result
from training.data.index import Annotation

# Places of the twelve numbers of COCO's summary.
_STATISTICS = {
    "mask_ap": 0,
    "mask_ap50": 1,
    "mask_ap75": 2,
    "mask_ap_small": 3,
    "mask_ap_medium": 4,
    "mask_ap_large": 5,
    "mask_ar": 8,
}


@dataclass(frozen=True, kw_only=True)
class MaskScores:
    """0 to 1."""

    summary: dict[str, float]  # mask_ap, mask_ap50, mask_ap75, mask_ap_small, _medium, _large, mask_ar, where defined
    by_class: NDArray[np.float64]  # mask_ap of each class (K,); NaN where it is not defined


class MaskAP:
    """Mask AP of the things of `categories` over the images added so far."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self._is_thing = [category.is_thing for category in categories]
        self._groups: list[str] = []  # of each image
        self._sizes: list[tuple[int, int]] = []  # height and width, likewise
        self._true: list[dict[str, Any]] = []
        self._predicted: list[dict[str, Any]] = []

    def add(self, prediction: Result, annotation: Annotation, *, group: str = "") -> None:
        """Take one image; prediction and annotation have its size (H, W)."""
        size = annotation.layers.shape[1], annotation.layers.shape[2]
        image = len(self._groups)
        self._groups.append(group)
        self._sizes.append(size)
        for counts, segment in zip(_encode(prediction), prediction.segments, strict=True):
            if self._is_thing[segment.class_index]:
                entry = _entry(image, segment.class_index, counts, size, segment.area)
                self._predicted.append(entry | {"score": segment.score})
        areas = np.bincount(annotation.layers.ravel(), minlength=len(annotation.class_index) + 1)
        for true, counts in zip(annotation.segments, _encode_layers(annotation), strict=True):
            if self._is_thing[true.class_index]:
                entry = _entry(image, true.class_index, counts, size, int(areas[true.id]))
                self._true.append(entry | {"iscrowd": int(true.is_crowd)})

    def score(self, group: str | None = None) -> MaskScores:
        """Scores of the images of one group; None: of all."""
        result = self._evaluate(group)
        values = {name: float(result.stats[place]) for name, place in _STATISTICS.items()}
        precision = result.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all sizes, most masks
        by_class = np.full(len(self._is_thing), np.nan)
        for place, class_index in enumerate(self._things()):
            of_class = precision[:, :, place]
            if (of_class >= 0).any():
                by_class[class_index] = of_class[of_class >= 0].mean()
        return MaskScores(
            summary={name: value for name, value in values.items() if value >= 0},  # -1 is not defined
            by_class=by_class,
        )

    def _things(self) -> list[int]:
        return [index for index, is_thing in enumerate(self._is_thing) if is_thing]

    def _evaluate(self, group: str | None) -> Any:
        images = [number for number, name in enumerate(self._groups) if group is None or name == group]
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its steps
            result = COCOeval(self._coco(self._true), self._coco(self._predicted), "segm")
            result.params.imgIds, result.params.catIds = images, self._things()
            result.evaluate()
            result.accumulate()
            result.summarize()
        return result

    def _coco(self, entries: list[dict[str, Any]]) -> Any:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": height, "width": width} for i, (height, width) in enumerate(self._sizes)],
            "categories": [{"id": index} for index in self._things()],
            # Ids from 1, as 0 means "no match" to COCO's program.
            "annotations": [entry | {"id": number} for number, entry in enumerate(entries, start=1)],
        }
        coco.createIndex()
        return coco


def _entry(image: int, class_index: int, counts: str, size: tuple[int, int], area: int) -> dict[str, Any]:
    segmentation = {"size": list(size), "counts": counts}
    return {"image_id": image, "category_id": class_index, "segmentation": segmentation, "area": area}


def _encode(prediction: Result) -> Sequence[str]:
    if isinstance(prediction, Instances):
        return prediction.counts
    return rle.encode(prediction.id_map, [segment.id for segment in prediction.segments])


def _encode_layers(annotation: Annotation) -> list[str]:
    """COCO `counts` of each segment (T); one without a pixel has the empty mask."""
    num_pixels = int(np.prod(annotation.layers.shape[1:]))
    nothing = np.zeros(0, np.int64)
    result = [rle.encode_runs(nothing, nothing, num_pixels)] * len(annotation.class_index)
    for layer in annotation.layers:
        present = [int(number) for number in np.unique(layer) if number]
        for number, counts in zip(present, rle.encode(layer, present), strict=True):
            result[number - 1] = counts
    return result
