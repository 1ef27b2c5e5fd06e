import tracemalloc

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn.functional import interpolate

from service import rle
from service.artifact import Geometry
from service.geometry import Plan, make_plan
from service.instances import Instances, read_instances, select_instances, stack

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

GEOMETRY = Geometry(mode="shortest_edge", shortest=96, longest=160, multiple=32)


def random_logits(num_masks: int, plan: Plan, seed: int = 0) -> np.ndarray:
    """Smooth logits (M, h, w) with a border in most of the image."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(0, 6, (1, num_masks, 4, 5)).astype(np.float32))
    cells = [side // plan.stride for side in plan.canvas_size]
    return interpolate(coarse, cells, mode="bicubic")[0].numpy()


def outputs_of(logits: np.ndarray, **changes) -> dict[str, np.ndarray]:
    """Graph outputs with one entry for each mask, of scores 0.9, 0.88, ..."""
    num_masks = len(logits)
    outputs = {
        "score": np.float32(0.9) - np.float32(0.02) * np.arange(num_masks, dtype=np.float32),
        "class_index": np.zeros(num_masks, np.int32),
        "mask_index": np.arange(num_masks, dtype=np.int32),
        "mask_logits": logits,
    }
    return outputs | changes


def masks_by_torch(logits: np.ndarray, plan: Plan, upsample: int) -> np.ndarray:
    """The steps of the official code, on whole masks."""

    def scale(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return interpolate(maps, size, mode="bilinear", align_corners=False)

    cells = torch.from_numpy(logits)[None]
    probs = scale(cells, (cells.shape[2] * upsample, cells.shape[3] * upsample)).sigmoid()
    content = scale(probs, plan.canvas_size)[..., : plan.scaled_size[0], : plan.scaled_size[1]]
    return (scale(content, plan.image_size)[0] > 0.5).numpy()


def decode(instances: Instances) -> list[np.ndarray]:
    return [rle.decode(counts, instances.image_size) for counts in instances.counts]


@pytest.mark.parametrize(("stride", "upsample"), [(1, 1), (4, 1), (4, 2), (8, 2), (8, 4)])
@pytest.mark.parametrize("size", [(96, 128), (61, 47), (480, 333), (7, 300), (1, 1), (1500, 2101)])
def test_masks_are_those_of_the_official_steps(size, stride, upsample):
    plan = make_plan(size, GEOMETRY, stride)
    logits = random_logits(6, plan)
    expected = [mask for mask in masks_by_torch(logits, plan, upsample) if mask.any()]
    found = decode(read_instances(outputs_of(logits), plan, mask_upsample=upsample, score_threshold=0))
    assert len(found) == len(expected)
    for mask, reference in zip(found, expected, strict=True):
        # Roundings of the two libraries differ: a pixel in a million may lie on the other side of 0.5.
        assert (mask != reference).sum() <= mask.size * 1e-6 + 1


def test_area_bbox_and_counts_are_those_of_the_mask():
    plan = make_plan((301, 203), GEOMETRY, 4)
    result = read_instances(outputs_of(random_logits(8, plan)), plan, mask_upsample=2, score_threshold=0)
    assert len(result.segments) == 8
    for segment, counts in zip(result.segments, result.counts, strict=True):
        code = {"size": [301, 203], "counts": counts}
        assert segment.area == coco_mask.area(code)
        assert list(segment.bbox) == coco_mask.toBbox(code).tolist()


def test_a_mask_of_the_whole_image_is_one_run_over_all_strips():
    plan = make_plan((2000, 1500), GEOMETRY, 4)
    logits = np.full((1, 40, 24), 5, np.float32)
    result = read_instances(outputs_of(logits), plan, mask_upsample=1, score_threshold=0)
    assert (result.segments[0].area, result.segments[0].bbox) == (3_000_000, (0, 0, 1500, 2000))
    starts, ends = rle.decode_runs(result.counts[0], (2000, 1500))
    assert (starts.tolist(), ends.tolist()) == ([0], [3_000_000])


def test_what_lies_in_the_padding_makes_no_mask():
    plan = make_plan((80, 150), GEOMETRY, 4)
    assert (plan.scaled_size, plan.canvas_size) == ((85, 160), (96, 160))
    logits = np.full((1, *(side // 4 for side in plan.canvas_size)), -5, np.float32)
    logits[:, -1] = 5
    logits[:, -2] = -50
    assert read_instances(outputs_of(logits), plan, mask_upsample=1, score_threshold=0).segments == ()


def test_entries_from_the_threshold_on_are_answered():
    plan = make_plan((96, 96), GEOMETRY, 4)
    logits = np.full((3, 24, 24), 5, np.float32)
    outputs = outputs_of(logits, score=np.array([0.9, 0.5, 0.25], np.float32))
    for threshold, count in ((0.0, 3), (0.25, 3), (0.26, 2), (0.5, 2), (0.95, 0)):
        assert len(read_instances(outputs, plan, mask_upsample=1, score_threshold=threshold).segments) == count


def test_one_mask_may_come_under_several_classes():
    plan = make_plan((96, 96), GEOMETRY, 4)
    logits = random_logits(2, plan)
    outputs = outputs_of(
        logits,
        score=np.array([0.9, 0.8, 0.7], np.float32),
        class_index=np.array([3, 5, 4], np.int32),
        mask_index=np.array([1, 0, 1], np.int32),
    )
    result = read_instances(outputs, plan, mask_upsample=1, score_threshold=0)
    assert [(segment.id, segment.class_index) for segment in result.segments] == [(1, 3), (2, 5), (3, 4)]
    assert result.counts[0] == result.counts[2] != result.counts[1]


def test_empty_masks_are_dropped_and_ids_have_no_gap():
    plan = make_plan((96, 96), GEOMETRY, 4)
    logits = np.full((3, 24, 24), 5, np.float32)
    logits[1] = -5
    result = read_instances(outputs_of(logits), plan, mask_upsample=1, score_threshold=0)
    assert [segment.id for segment in result.segments] == [1, 2]
    assert [round(segment.score, 2) for segment in result.segments] == [0.9, 0.86]


def test_memory_is_that_of_one_mask_whatever_their_number():
    plan = make_plan((3000, 4000), GEOMETRY, 4)
    logits = random_logits(30, plan)

    def peak(num_masks: int) -> int:
        tracemalloc.start()
        read_instances(outputs_of(logits[:num_masks]), plan, mask_upsample=2, score_threshold=0)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(30) < 1.5 * peak(1)
    assert peak(30) < 3000 * 4000  # not even one mask of the posted size, of a byte a pixel


@pytest.fixture
def three() -> Instances:
    """Masks of columns 0..5, 4..9 and 2..7, by descending score."""
    plan = make_plan((96, 160), GEOMETRY, 16)
    logits = np.full((3, 6, 10), -9, np.float32)
    for mask, columns in zip(logits, (slice(0, 6), slice(4, 10), slice(2, 8)), strict=True):
        mask[:, columns] = 5
    outputs = outputs_of(logits, class_index=np.array([0, 1, 0], np.int32))
    return read_instances(outputs, plan, mask_upsample=1, score_threshold=0)


def test_the_best_mask_is_on_top(three):
    assert stack(three)[48, 8::16].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2]
    worst = select_instances(three, [0])
    assert stack(worst)[48, 8::16].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 0, 0]


def test_selection_renumbers_and_keeps_masks(three):
    only = select_instances(three, [1, 7])
    assert [(segment.id, segment.class_index) for segment in only.segments] == [(1, 1)]
    assert only.counts == three.counts[1:2]
    assert select_instances(three, [0, 1]) == three
    assert select_instances(three, []).segments == ()
