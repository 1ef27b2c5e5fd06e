"""What is in a data set: sizes, segments of each category, objects of each image.

Images are added one by one, and of each only a few numbers are kept.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.data.index import Annotation, DataIndex, Record


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number is spread over the images or objects; all 0 where there are none."""

    least: float
    quarter: float  # a quarter is below
    median: float
    most: float  # 95 % are below
    largest: float

    @classmethod
    def of(cls, values: "array[float] | NDArray[np.float64]") -> "Spread":
        """Of the numbers in an array."""
        points = np.percentile(values, (0, 25, 50, 95, 100)) if len(values) else np.zeros(5)
        least, quarter, median, most, largest = (float(point) for point in points)
        return cls(least=least, quarter=quarter, median=median, most=most, largest=largest)


@dataclass(frozen=True, kw_only=True)
class CategoryStatistics:
    """How often a category occurs. Crowds are not counted."""

    name: str
    is_thing: bool
    num_segments: int
    num_images: int  # that have a segment of it
    pixel_share: float  # of all pixels


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of one split."""

    num_images: int
    num_empty: int  # images without any segment
    num_crowds: int
    void_share: float  # of all pixels
    shorter_side: Spread
    longer_side: Spread
    num_sizes: int
    common_sizes: tuple[tuple[int, int, int], ...]  # height, width, number of images; the most frequent first
    groups: dict[str, int]  # number of images of each kind; empty where the set has none
    categories: tuple[CategoryStatistics, ...]
    objects: Spread  # things of an image
    object_area: Spread  # pixels
    thickness: Spread  # pixels, mean width of a region: twice its area, by the length of its outline


@dataclass(kw_only=True)
class Tally:
    """Adds up images."""

    index: DataIndex
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    num_objects: "array[float]" = field(default_factory=lambda: array("d"))  # one of each image
    areas: "array[float]" = field(default_factory=lambda: array("d"))  # one of each object
    thickness: "array[float]" = field(default_factory=lambda: array("d"))  # one of each segment
    num_empty: int = 0
    num_crowds: int = 0
    num_void: int = 0

    def __post_init__(self) -> None:
        self._is_thing = np.array([category.is_thing for category in self.index.categories])
        self._segments, self._images, self._pixels = np.zeros((3, len(self._is_thing)), np.int64)

    def add(self, record: Record, annotation: Annotation) -> NDArray[np.int64]:
        """Count one image and its segments; returns their areas (T), in pixels."""
        self.sizes[record.height, record.width] += 1
        self.groups[record.group] += 1
        areas, outlines = _measure(annotation)
        counted = ~annotation.is_crowd & (areas > 0)
        classes = annotation.class_index[counted]
        self._segments += np.bincount(classes, minlength=len(self._is_thing))
        self._images += np.bincount(np.unique(classes), minlength=len(self._is_thing))
        np.add.at(self._pixels, classes, areas[counted])
        is_object = self._is_thing[classes]
        self.num_objects.append(int(is_object.sum()))
        self.areas.extend(areas[counted][is_object].tolist())
        self.thickness.extend((2 * areas[counted] / np.maximum(outlines[counted], 1)).tolist())
        self.num_empty += not len(annotation.class_index)
        self.num_crowds += int(annotation.is_crowd.sum())
        self.num_void += int((annotation.layers == 0).all(axis=0).sum())
        return areas

    def result(self) -> Statistics:
        """Of all images added."""
        num_pixels = max(1, sum(height * width * count for (height, width), count in self.sizes.items()))
        sides = np.array(list(self.sizes.elements())).reshape(-1, 2)
        return Statistics(
            num_images=len(self.num_objects),
            num_empty=self.num_empty,
            num_crowds=self.num_crowds,
            void_share=self.num_void / num_pixels,
            shorter_side=Spread.of(sides.min(axis=1)),
            longer_side=Spread.of(sides.max(axis=1)),
            num_sizes=len(self.sizes),
            common_sizes=tuple((height, width, count) for (height, width), count in self.sizes.most_common(5)),
            groups=dict(self.groups.most_common()) if set(self.groups) != {""} else {},
            categories=tuple(
                CategoryStatistics(
                    name=category.name,
                    is_thing=category.is_thing,
                    num_segments=int(self._segments[number]),
                    num_images=int(self._images[number]),
                    pixel_share=float(self._pixels[number] / num_pixels),
                )
                for number, category in enumerate(self.index.categories)
            ),
            objects=Spread.of(self.num_objects),
            object_area=Spread.of(self.areas),
            thickness=Spread.of(self.thickness),
        )


def _measure(annotation: Annotation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels, and edges of pixels to another segment, of each of the T segments."""
    num_ids = len(annotation.class_index) + 1
    areas, outlines = np.zeros((2, num_ids), np.int64)
    for layer in annotation.layers:
        areas += np.bincount(layer.ravel(), minlength=num_ids)
        for one, other in ((layer[1:], layer[:-1]), (layer[:, 1:], layer[:, :-1])):
            differ = one != other
            outlines += np.bincount(one[differ], minlength=num_ids) + np.bincount(other[differ], minlength=num_ids)
    return areas[1:], outlines[1:]
