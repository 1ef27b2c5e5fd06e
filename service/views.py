"""Test-time views: an image is segmented in several scales and orientations, and what most views say is answered.

A network sees small objects better in larger images, and is not the same in all orientations: its errors differ from
view to view. Segments of two views that overlap by more than half are one thing; in each view there is at most one
such, as its segments lie apart.

Shapes: V views of an image of H x W pixels, L segments of all of them, G groups of them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata
from service.errors import InvalidParameterError
from service.instances import Result
from service.segmenter import Segmenter, find_thresholds
from service.segments import Segmentation, from_id_map

# Of each view: by how much it is larger than the first, and its orientation, of `turn`. Chosen in docs/results.md.
VIEWS = ((1.0, 0), (1.25, 2), (1.5, 1))
MAX_PIXELS = 2**24  # of an image: its views are several times as large
MIN_IOU = 0.5  # to be one thing must be exceeded
_STRIP_PIXELS = 2**20  # of the vote at once


def segment_views(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    *,
    views: int = 1,
    score_threshold: float | None = None,
    overlap_threshold: float | None = None,
) -> Result:
    """Segment an RGB image (H, W, 3) in the first of `VIEWS`; 1 is what `Segmenter.segment` does.

    A geometry without a scale gives views of the same size, which differ in orientation alone.

    Raises:
        InvalidParameterError: several views of an artifact that is not panoptic, or of an image above `MAX_PIXELS`;
            more views than there are; a threshold that is not legal.
    """
    metadata = segmenter.metadata
    check_views(views, metadata)
    if views == 1:
        return segmenter.segment(image, score_threshold=score_threshold, overlap_threshold=overlap_threshold)
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise InvalidParameterError(f"views is {views}; legal for an image of more than {MAX_PIXELS} pixels: 1")
    threshold = find_thresholds(metadata, score_threshold=score_threshold, overlap_threshold=overlap_threshold)
    results = []
    for scale, orientation in VIEWS[:views]:
        result = segmenter.enlarging(scale).segment(
            np.ascontiguousarray(turn(image, orientation)),
            score_threshold=threshold["score_threshold"] / 2,  # the mean of the views may reach the whole
            overlap_threshold=overlap_threshold,
        )
        assert isinstance(result, Segmentation)  # of a panoptic artifact
        results.append(replace(result, id_map=np.ascontiguousarray(turn_back(result.id_map, orientation))))
    is_thing = np.array([category.is_thing for category in metadata.categories])
    return combine(
        results, is_thing, score_threshold=threshold["score_threshold"], min_area=metadata.thresholds.min_area
    )


def pixels_of(views: int, num_pixels: int) -> int:
    """Pixels that the views of an image of so many have together: what a codec holds for it."""
    return round(num_pixels * sum(scale**2 for scale, _ in VIEWS[:views]))


def check_views(views: int, metadata: ArtifactMetadata) -> None:
    """Raise InvalidParameterError unless that many views of an image can be asked of an artifact."""
    most = len(VIEWS) if metadata.kind == "panoptic" else 1
    if not 1 <= views <= most:
        legal = "1" if most == 1 else f"1 to {most}"
        raise InvalidParameterError(f"views is {views}; legal for {metadata.name}, of kind {metadata.kind}: {legal}")


def turn(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image or map (H, W, ...) in orientation 0 to 7: so many quarter turns, from 4 on mirrored after that.

    >>> [turn(np.array([[1, 2], [3, 4]]), orientation).ravel().tolist() for orientation in (0, 1, 2, 4)]
    [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [2, 1, 4, 3]]
    """
    turned = np.rot90(array, orientation % 4)
    return turned[:, ::-1] if orientation >= 4 else turned


def turn_back(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A map in an orientation as it was.

    >>> [turn_back(turn(np.eye(2, 3), each), each).tolist() == np.eye(2, 3).tolist() for each in range(8)]
    [True, True, True, True, True, True, True, True]
    """
    return np.rot90(array[:, ::-1] if orientation >= 4 else array, -(orientation % 4))


def combine(
    results: Sequence[Segmentation], is_thing: NDArray[np.bool_], *, score_threshold: float, min_area: int
) -> Segmentation:
    """One result from those of V views, each turned back.

    A thing's score is the mean over all views, 0 where it was not seen. Of the things that reach the threshold and the
    classes of stuff, each pixel goes to the one that most views give it to; of equals, to that of the first view.

    Args:
        results: of one size (H, W), with the things of lower scores, too.
        is_thing: of each class index.
        score_threshold: least mean score of a thing.
        min_area: of a thing, in pixels.
    """
    counts = [len(result.segments) for result in results]
    first = np.cumsum([0, *counts])  # segments are numbered from 0: this of its view, and its id - 1
    segments = [segment for result in results for segment in result.segments]
    class_index = np.array([segment.class_index for segment in segments], np.int64)
    score = np.array([segment.score for segment in segments], np.float64)
    mates = _find_mates([result.id_map for result in results], first, class_index, is_thing)
    group, heads = _group(mates, score, class_index, is_thing)
    total = np.bincount(group, weights=score, minlength=len(heads))
    of_stuff = ~is_thing[class_index[heads]]
    mean = np.where(of_stuff, score[heads], total / len(results))
    kept = np.flatnonzero(of_stuff | (mean >= score_threshold))
    number_of = np.zeros(len(heads), np.int32)
    number_of[kept] = np.arange(1, len(kept) + 1)

    lookups = [np.append(0, number_of[group[begin:end]]).astype(np.int32) for begin, end in itertools.pairwise(first)]
    id_map = _vote([result.id_map for result in results], lookups)
    least = np.where(of_stuff[kept], 1, min_area)
    warnings = dict.fromkeys(warning for result in results for warning in result.warnings)
    return from_id_map(id_map, class_index[heads[kept]], mean[kept], min_area=least, warnings=warnings)


def _find_mates(
    id_maps: Sequence[NDArray[np.int32]],
    first: NDArray[np.int64],
    class_index: NDArray[np.int64],
    is_thing: NDArray[np.bool_],
) -> list[list[int]]:
    """For each segment those of other views that are the same thing."""
    mates: list[list[int]] = [[] for _ in class_index]
    is_seen = [np.append(False, is_thing[class_index[begin:end]]) for begin, end in itertools.pairwise(first)]
    areas = [np.bincount(ids.ravel(), minlength=len(seen)) for ids, seen in zip(id_maps, is_seen, strict=True)]
    for one, other in itertools.combinations(range(len(id_maps)), 2):
        both = is_seen[one][id_maps[one]] & is_seen[other][id_maps[other]]
        # Sorted and not counted in a table, which thousands of things in each view would make gigabytes.
        codes = id_maps[one][both].astype(np.int64) * len(areas[other]) + id_maps[other][both]
        code, shared = np.unique(codes, return_counts=True)
        id_one, id_other = np.divmod(code, len(areas[other]))
        iou = shared / (areas[one][id_one] + areas[other][id_other] - shared)
        row, column = id_one - 1 + first[one], id_other - 1 + first[other]
        same = (iou > MIN_IOU) & (class_index[row] == class_index[column])
        for a, b in zip(row[same].tolist(), column[same].tolist(), strict=True):
            mates[a].append(b)
            mates[b].append(a)
    return mates


def _group(
    mates: Sequence[Sequence[int]],
    score: NDArray[np.float64],
    class_index: NDArray[np.int64],
    is_thing: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group (L) of each segment, and the number of the best segment (G) of each group.

    The best segment that is left takes its mates. Stuff is grouped by class.
    """
    group = np.full(len(score), -1, np.int64)
    heads: list[int] = []
    for number in np.argsort(-score, kind="stable").tolist():
        if group[number] >= 0:
            continue
        own = class_index[number]
        members = [number, *mates[number]] if is_thing[own] else np.flatnonzero(class_index == own)
        group[[member for member in members if group[member] < 0]] = len(heads)
        heads.append(number)
    return group, np.array(heads, np.int64)


def _vote(id_maps: Sequence[NDArray[np.int32]], lookups: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The most frequent number (H, W), not counting 0; of several that of the first map."""
    height, width = id_maps[0].shape
    result = np.zeros((height, width), np.int32)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        numbers = np.stack([lookup[ids[strip]] for ids, lookup in zip(id_maps, lookups, strict=True)])
        most = np.zeros(numbers.shape[1:], np.uint8)
        for candidate in numbers:
            votes = (numbers == candidate).sum(axis=0, dtype=np.uint8)
            wins = (candidate > 0) & (votes > most)
            result[strip][wins] = candidate[wins]
            most[wins] = votes[wins]
    return result
