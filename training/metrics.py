"""How good predicted segments are: PQ, AP and mIoU, in all and for each group of images.

Legend: K classes, T true segments and P predicted ones of one image, H, W pixels.

All three come from one table of intersections of an image, and all follow COCO panoptic where the truth is
silent: void pixels do not count in a union, a predicted segment that lies by more than half in void or in a crowd
of its class is no false positive, and a crowd is never a false negative.

- PQ, SQ, RQ: of each class, segments matched at IoU > 0.5; means over the classes that occur.
- AP at an IoU threshold t, as used for nuclei: TP / (TP + FP + FN) of the things, matched one to one at IoU > t.
  It needs no ranking by score. "pooled" counts all objects of the data set together; "mean" is over images, of
  which one with neither objects nor predictions counts 1.
- mIoU: of the class maps that segments joined by class give, over the classes that occur; void ignored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from model.config import Category

AP_THRESHOLDS = np.arange(50, 100, 5) / 100  # IoU; at 0.5 and above a match is one to one by itself


class Segment(Protocol):
    """What is asked of a predicted segment; `service.segments.Segment` has it."""

    @property
    def id(self) -> int:
        """Its value in the id-map."""

    @property
    def class_index(self) -> int:
        """Its class, 0..K-1."""


class TrueSegment(Segment, Protocol):
    """What is asked of an annotated segment; `formats.SegmentInfo` has it."""

    @property
    def is_crowd(self) -> bool:
        """Whether it covers a crowd of objects that were not told apart."""


@dataclass
class _Counts:
    """Sums over images; `a + b` is that over both sets."""

    num_images: NDArray[np.int64]  # ()
    iou_sum: NDArray[np.float64]  # (K,) over the matches
    matched: NDArray[np.int64]  # (K,) true positives, likewise
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]
    thing_counts: NDArray[np.int64]  # (thresholds, 3): true positives, false positives, false negatives of things
    image_ap_sum: NDArray[np.float64]  # (thresholds,)
    confusion: NDArray[np.int64]  # (K, K + 1) pixels by true and predicted class; the last column is no segment

    @classmethod
    def zero(cls, num_classes: int) -> "_Counts":
        whole, num_thresholds = np.int64, len(AP_THRESHOLDS)
        return cls(
            num_images=np.zeros((), whole),
            iou_sum=np.zeros(num_classes),
            matched=np.zeros(num_classes, whole),
            false_positives=np.zeros(num_classes, whole),
            false_negatives=np.zeros(num_classes, whole),
            thing_counts=np.zeros((num_thresholds, 3), whole),
            image_ap_sum=np.zeros(num_thresholds),
            confusion=np.zeros((num_classes, num_classes + 1), whole),
        )

    def __add__(self, other: "_Counts") -> "_Counts":
        return _Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass
class Evaluation:
    """Scores of the images added so far, whose class indices count along `categories`."""

    categories: Sequence[Category]
    _groups: dict[str, _Counts] = field(default_factory=dict, init=False)

    def add(
        self,
        id_map: NDArray[np.integer],
        segments: Sequence[Segment],
        true_id_map: NDArray[np.integer],
        true_segments: Sequence[TrueSegment],
        *,
        group: str = "",
    ) -> None:
        """Count one image: predicted and true id-map (H, W), 0 = void, and the segments in them.

        Raises ValueError where the maps differ in size or hold an id that is not among the segments. A listed
        segment without a pixel counts as not there.
        """
        if id_map.shape != true_id_map.shape:
            raise ValueError(f"the predicted id-map is {id_map.shape}, the true one {true_id_map.shape}: resize first")
        places = _index_segments(true_id_map, true_segments, "true") * (len(segments) + 1)
        places += _index_segments(id_map, segments, "predicted")
        shape = (len(true_segments) + 1, len(segments) + 1)
        table = np.bincount(places.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        counts = self._count(table, segments, true_segments)
        self._groups[group] = self._groups[group] + counts if group in self._groups else counts

    def summary(self) -> dict[str, float]:
        """Scores over all images, 0 to 1, and num_images.

        pq, sq, rq, each also with _things and _stuff; ap50_pooled, ap50_mean, and ap_pooled, ap_mean over IoU
        0.50:0.95; miou. A score that is not defined, as that of stuff where none occurs, is left out.
        """
        return self._summarise(sum(self._groups.values(), _Counts.zero(len(self.categories))))

    def group_summaries(self) -> dict[str, dict[str, float]]:
        """`summary` of each group, by name."""
        return {group: self._summarise(self._groups[group]) for group in sorted(self._groups)}

    def class_summaries(self) -> dict[str, dict[str, float]]:
        """pq, sq, rq and iou of each class that occurs, by category name."""
        counts = sum(self._groups.values(), _Counts.zero(len(self.categories)))
        scores = {"pq": _pq(counts), "sq": _sq(counts), "rq": _rq(counts), "iou": _iou(counts)}
        summaries = {
            category.name: {name: float(of[index]) for name, of in scores.items() if np.isfinite(of[index])}
            for index, category in enumerate(self.categories)
        }
        return {name: summary for name, summary in summaries.items() if summary}

    def _count(
        self, table: NDArray[np.int64], segments: Sequence[Segment], true_segments: Sequence[TrueSegment]
    ) -> _Counts:
        """Counts of one image from its intersections (T + 1, P + 1), void first."""
        counts = _Counts.zero(len(self.categories))
        counts.num_images += 1
        num_classes = len(self.categories)
        classes = np.array([segment.class_index for segment in segments], np.int64)
        true_classes = np.array([segment.class_index for segment in true_segments], np.int64)
        is_crowd = np.array([segment.is_crowd for segment in true_segments], bool)
        is_thing = np.array([category.is_thing for category in self.categories], bool)
        same_class = true_classes[:, None] == classes
        intersections = table[1:, 1:]
        areas, true_areas = table.sum(axis=0)[1:], table.sum(axis=1)[1:]
        unions = true_areas[:, None] + areas - intersections - table[0, 1:]
        iou = intersections / np.maximum(unions, 1) * (same_class & ~is_crowd[:, None])
        ignored = table[0, 1:] + (intersections * (same_class & is_crowd[:, None])).sum(axis=0)
        may_be_wrong = (areas > 0) & (ignored <= 0.5 * areas)
        may_be_missed = (true_areas > 0) & ~is_crowd
        for index, threshold in enumerate(AP_THRESHOLDS):
            match = iou > threshold
            true_matched, matched = match.any(axis=1), match.any(axis=0)
            wrong, missed = may_be_wrong & ~matched, may_be_missed & ~true_matched
            if index == 0:  # PQ's
                counts.matched = np.bincount(true_classes[true_matched], minlength=num_classes)
                np.add.at(counts.iou_sum, true_classes, (iou * match).sum(axis=1))
                counts.false_positives = np.bincount(classes[wrong], minlength=num_classes)
                counts.false_negatives = np.bincount(true_classes[missed], minlength=num_classes)
            of_things = (
                is_thing[true_classes[true_matched]].sum(),
                is_thing[classes[wrong]].sum(),
                is_thing[true_classes[missed]].sum(),
            )
            counts.thing_counts[index] = of_things
            counts.image_ap_sum[index] = of_things[0] / sum(of_things) if sum(of_things) else 1.0
        np.add.at(counts.confusion, (true_classes[:, None], np.append(num_classes, classes)), table[1:])
        return counts

    def _summarise(self, counts: _Counts) -> dict[str, float]:
        is_thing = np.array([category.is_thing for category in self.categories], bool)
        values: dict[str, NDArray[np.float64] | np.float64] = {"num_images": np.float64(counts.num_images)}
        for suffix, chosen in (("", is_thing | True), ("_things", is_thing), ("_stuff", ~is_thing)):
            for name, of in (("pq", _pq(counts)), ("sq", _sq(counts)), ("rq", _rq(counts))):
                values[name + suffix] = _mean(of[chosen])
        pooled = _ratio(counts.thing_counts[:, 0], counts.thing_counts.sum(axis=1))
        mean = _ratio(counts.image_ap_sum, counts.num_images)
        values |= {"ap50_pooled": pooled[0], "ap50_mean": mean[0], "ap_pooled": _mean(pooled), "ap_mean": _mean(mean)}
        values["miou"] = _mean(_iou(counts))
        return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _index_segments(id_map: NDArray[np.integer], segments: Sequence[Segment], whose: str) -> NDArray[np.int64]:
    """`id_map` (H, W) with each id replaced by 1 + its place in `segments`; 0 stays."""
    ids = np.array([0, *(segment.id for segment in segments)], np.int64)
    order = np.argsort(ids, kind="stable")
    places = order[np.searchsorted(ids[order], id_map).clip(max=len(ids) - 1)]
    unknown = id_map[ids[places] != id_map]
    if unknown.size:
        raise ValueError(f"the {whose} id-map holds ids without a segment: {np.unique(unknown)[:5].tolist()}")
    return np.asarray(places, np.int64)


def _ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """NaN where the denominator is 0: not defined."""
    safe = np.where(denominator > 0, denominator, np.nan)
    return np.asarray(numerator / safe, np.float64)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the values that are defined; NaN where none is."""
    defined = values[np.isfinite(values)]
    return np.asarray(defined.mean() if defined.size else np.nan)


def _pq(counts: _Counts) -> NDArray[np.float64]:
    halves = (counts.false_positives + counts.false_negatives) / 2
    return _ratio(counts.iou_sum, counts.matched + halves)


def _rq(counts: _Counts) -> NDArray[np.float64]:
    halves = (counts.false_positives + counts.false_negatives) / 2
    return _ratio(counts.matched, counts.matched + halves)


def _sq(counts: _Counts) -> NDArray[np.float64]:
    """0, as panopticapi has it, for a class that occurs but has no match."""
    return np.where(np.isfinite(_rq(counts)), np.nan_to_num(_ratio(counts.iou_sum, counts.matched)), np.nan)


def _iou(counts: _Counts) -> NDArray[np.float64]:
    hits = counts.confusion.diagonal()
    return _ratio(hits, counts.confusion.sum(axis=1) + counts.confusion.sum(axis=0)[:-1] - hits)


def print_summary(evaluation: Evaluation, console: Console | None = None) -> None:
    """Show the scores as two tables, 80 columns wide: each group and all images; each class."""
    console = console or Console()
    columns = {
        "AP50\npooled": "ap50_pooled",
        "AP50\nmean": "ap50_mean",
        "AP\npooled": "ap_pooled",
        "PQ": "pq",
        "PQ\nthings": "pq_things",
        "PQ\nstuff": "pq_stuff",
        "mIoU": "miou",
    }
    rows = {group: summary for group, summary in evaluation.group_summaries().items() if group}
    rows["all"] = evaluation.summary()
    table = Table("group", "images", *columns, box=SIMPLE)
    for name, summary in rows.items():
        table.add_row(name, f"{summary['num_images']:.0f}", *_cells(summary, columns.values()))
    console.print(table)
    classes = Table("class", "PQ", "SQ", "RQ", "IoU", box=SIMPLE)
    for name, summary in evaluation.class_summaries().items():
        classes.add_row(name, *_cells(summary, ("pq", "sq", "rq", "iou")))
    console.print(classes)


def _cells(summary: Mapping[str, float], names: Iterable[str]) -> list[str]:
    return [f"{summary[name]:.3f}" if name in summary else "-" for name in names]
