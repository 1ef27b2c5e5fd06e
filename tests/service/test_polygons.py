import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service import polygons, rle
from service.errors import InvalidParameterError
from service.filling import fill_polygons
from service.instances import Instances
from service.segments import Segment, Segmentation, from_id_map


def segmentation(id_map: np.ndarray) -> Segmentation:
    """Ids are kept, also those that are absent."""
    count = int(id_map.max(initial=0))
    segments = tuple(Segment(id=i + 1, class_index=0, score=1.0, area=1, bbox=(0, 0, 1, 1)) for i in range(count))
    return Segmentation(id_map=id_map.astype(np.int32), segments=segments)


def outlines(mask: np.ndarray) -> list:
    (only,) = polygons.trace(segmentation(mask.astype(np.int32)))
    return [[ring.tolist() for ring in polygon] for polygon in only]


def signed_area(ring: list) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in itertools.pairwise(ring)) / 2


def check_rings(polygon: list) -> None:
    """What the module promises of every ring."""
    for number, ring in enumerate(polygon):
        points = [tuple(point) for point in np.asarray(ring).tolist()]
        assert points[0] == points[-1]
        assert len(set(points[:-1])) == len(points) - 1 >= 4
        edges = list(itertools.pairwise([*points, points[1]]))
        for ((x0, y0), (x1, y1)), ((_, _), (x2, y2)) in itertools.pairwise(edges):
            assert (x0 == x1) != (y0 == y1)
            assert (x0 == x1) != (x1 == x2)  # corners only
            assert (y0 == y1) != (y1 == y2)
        assert (signed_area(points) > 0) == (number == 0)


maps = npst.arrays(np.int32, npst.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))
masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=14))


@given(maps)
@settings(deadline=None)
def test_filling_gives_every_segment_back(id_map):
    found = list(polygons.trace(segmentation(id_map)))
    assert len(found) == id_map.max()
    for number, polygon_list in enumerate(found, start=1):
        np.testing.assert_array_equal(fill_polygons(polygon_list, id_map.shape), id_map == number)
        for polygon in polygon_list:
            check_rings(polygon)


@given(masks)
@settings(deadline=None)
def test_each_polygon_is_one_part_with_its_own_holes(mask):
    import cv2

    if not mask.any():
        return
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    parts = [fill_polygons([polygon], mask.shape) for polygon in outlines(mask)]
    assert len(parts) == count - 1
    expected = {(labels == number).tobytes() for number in range(1, count)}
    assert {part.tobytes() for part in parts} == expected


@given(maps)
@settings(deadline=None)
def test_instances_and_few_runs_at_once_give_the_same(id_map):
    whole = segmentation(id_map)
    counts = rle.encode(id_map, [segment.id for segment in whole.segments])
    instances = Instances(image_size=id_map.shape, segments=whole.segments, counts=tuple(counts))
    for one, other in zip(polygons.trace(whole), polygons.trace(instances), strict=True):
        assert [[r.tolist() for r in p] for p in one] == [[r.tolist() for r in p] for p in other]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polygons, "_RUNS_AT_ONCE", 3)
        again = list(polygons.trace(whole))
    for one, other in zip(polygons.trace(whole), again, strict=True):
        assert [[r.tolist() for r in p] for p in one] == [[r.tolist() for r in p] for p in other]


def test_one_pixel_is_its_square():
    mask = np.zeros((3, 4), np.bool_)
    mask[1, 2] = True
    assert outlines(mask) == [[[[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]]]


def test_a_full_image_is_its_border():
    assert outlines(np.ones((3, 4), np.bool_)) == [[[[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]]]


def test_pixels_that_touch_in_a_corner_are_two_polygons():
    assert outlines(np.eye(2, dtype=np.bool_)) == [
        [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]],
    ]


def test_an_island_in_a_hole_is_a_polygon_of_its_own():
    mask = np.ones((7, 7), np.bool_)
    mask[1:6, 1:6] = False
    mask[2:5, 2:5] = True
    mask[3, 3] = False
    assert [len(polygon) for polygon in outlines(mask)] == [2, 2]


def test_too_long_outlines_are_refused(monkeypatch):
    monkeypatch.setattr(polygons, "MAX_CORNERS", 100)
    squares = from_id_map(np.indices((30, 30)).sum(0).astype(np.int32) % 2, [0], [1.0])
    with pytest.raises(InvalidParameterError, match="ask for format=rle"):
        list(polygons.trace(squares))
