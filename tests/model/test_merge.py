from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.merge import make_candidates, merge

GOLDEN = Path(__file__).parents[1] / "golden" / "merge_discs.npz"


def loop(probs, scores, is_stuff, score_threshold, overlap_threshold, valid=None, rule="official"):
    """One image, written as the official code's loop over kernels in descending score.

    Returns the id-map (H, W), each kernel's segment id and each kernel's area.
    """
    num_kernels, height, width = probs.shape
    passes = [bool(is_stuff[n]) or scores[n] >= score_threshold for n in range(num_kernels)]
    pixels = [(y, x) for y in range(height) for x in range(width) if valid is None or valid[y, x]]
    owner = {}
    for y, x in pixels:
        best, owner[y, x] = -1.0, 0
        for n in range(num_kernels):
            value = probs[n, y, x] * (scores[n] if passes[n] or rule == "official" else 0.0)
            if value > best:
                best, owner[y, x] = value, n
    id_map = np.zeros((height, width), np.int32)
    segment_id, areas = [0] * num_kernels, [0] * num_kernels
    for n in sorted(range(num_kernels), key=lambda n: (-scores[n], n)):
        mine = [pixel for pixel in pixels if owner[pixel] == n]
        original = sum(probs[n, y, x] >= 0.5 for y, x in pixels)
        if not passes[n] or not mine or not original or len(mine) / original < overlap_threshold:
            continue
        segment_id[n], areas[n] = max(segment_id) + 1, len(mine)
        for pixel in mine:
            id_map[pixel] = segment_id[n]
    return id_map, segment_id, areas


def check(probs, scores, is_stuff, score_thresholds, overlap_thresholds, valid=None, rule="official"):
    """Compare `merge` of a batch with the loop over each of its images; arguments are nested lists or arrays."""
    probs, scores = np.asarray(probs, np.float32), np.asarray(scores, np.float32)
    merged = merge(
        torch.from_numpy(probs),
        make_candidates(
            torch.from_numpy(scores),
            torch.tensor(is_stuff),
            torch.tensor(score_thresholds, dtype=torch.float32),
            rule,
        ),
        torch.tensor(overlap_thresholds, dtype=torch.float32),
        None if valid is None else torch.from_numpy(valid)[:, None],
    )
    assert merged.id_map.dtype == merged.segment_id.dtype == merged.area.dtype == torch.int32
    for i in range(len(probs)):
        one = None if valid is None else valid[i]
        id_map, segment_id, areas = loop(
            probs[i],
            [float(score) for score in scores[i]],
            is_stuff,
            float(np.float32(score_thresholds[i])),
            overlap_thresholds[i],
            one,
            rule,
        )
        assert merged.id_map[i].tolist() == id_map.tolist()
        assert merged.segment_id[i].tolist() == segment_id
        assert merged.area[i].tolist() == areas
    return merged


# Few different values, exact in float32: ties in scores, in products and with the thresholds are frequent.
QUARTERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def batches(draw):
    batch, num_kernels = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    cells = batch * num_kernels * height * width
    probs = draw(st.lists(QUARTERS, min_size=cells, max_size=cells))
    scores = draw(st.lists(QUARTERS, min_size=batch * num_kernels, max_size=batch * num_kernels))
    num_stuff = draw(st.integers(0, num_kernels))
    thresholds = st.lists(st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.6, 0.75, 1.0]), min_size=batch, max_size=batch)
    valid = None
    if draw(st.booleans()):
        valid = np.zeros((batch, height, width), bool)
        for i in range(batch):
            valid[i, : draw(st.integers(0, height)), : draw(st.integers(0, width))] = True
    return {
        "probs": np.reshape(probs, (batch, num_kernels, height, width)),
        "scores": np.reshape(scores, (batch, num_kernels)),
        "is_stuff": [n >= num_kernels - num_stuff for n in range(num_kernels)],
        "score_thresholds": draw(thresholds),
        "overlap_thresholds": draw(thresholds),
        "valid": valid,
        "rule": draw(st.sampled_from(["official", "confident"])),
    }


@settings(max_examples=300, deadline=None)
@given(batches())
def test_merge_equals_the_official_loop(case):
    check(**case)


@pytest.mark.parametrize("rule", ["official", "confident"])
def test_merge_equals_the_official_loop_on_soft_masks(rule):
    rng = np.random.default_rng(5)
    probs, scores = rng.random((4, 12, 7, 9)) ** 2, rng.random((4, 12))
    valid = np.ones((4, 7, 9), bool)
    valid[1, 5:], valid[2, :, 3:], valid[3] = False, False, False
    is_stuff = [False] * 8 + [True] * 4
    merged = check(probs, scores, is_stuff, [0.0, 0.4, 0.9, 0.1], [0.0, 0.6, 0.05, 0.2], valid, rule)
    assert merged.id_map[0].max() > 3
    assert merged.id_map[3].max() == 0


@pytest.mark.parametrize("rule", ["official", "confident"])
def test_without_a_passing_thing_only_stuff_remains(rule):
    probs = [[[[0.9, 0.6]], [[0.8, 0.9]], [[0.1, 0.7]]]]
    merged = check(probs, [[0.2, 0.1, 0.3]], [False, False, True], [0.5], [0.0], rule=rule)
    # Rejected things keep the first pixel from the stuff unless only confident kernels compete.
    assert merged.id_map.tolist() == ([[[0, 1]]] if rule == "official" else [[[1, 1]]])


def test_nothing_passes():
    merged = check([[[[0.9]], [[0.8]]]], [[0.2, 0.1]], [False, False], [0.5], [0.0])
    assert merged.id_map.tolist() == [[[0]]]
    assert merged.segment_id.tolist() == [[0, 0]]


def test_overlapping_things_go_to_the_higher_score():
    merged = check([[[[0.8, 0.8, 0.0]], [[0.0, 0.8, 0.8]]]], [[0.7, 0.9]], [False, False], [0.3], [0.0])
    assert merged.id_map.tolist() == [[[2, 1, 1]]]
    assert merged.area.tolist() == [[1, 2]]


def test_ties_go_to_the_first_kernel():
    merged = check([[[[0.8]], [[0.8]]]], [[0.5, 0.5]], [False, False], [0.3], [0.0])
    assert merged.segment_id.tolist() == [[1, 0]]
    merged = check([[[[0.8, 0.0]], [[0.0, 0.8]]]], [[0.5, 0.5]], [False, False], [0.3], [0.0])
    assert merged.segment_id.tolist() == [[1, 2]]


def test_a_share_of_exactly_the_threshold_is_kept():
    mask = [0.75] * 5 + [0.0] * 5
    other = [0.0] * 3 + [1.0] * 7  # wins 2 of the 5 pixels
    merged = check([[[mask], [other]]] * 3, [[0.8, 0.9]] * 3, [False, False], [0.3] * 3, [0.6, 0.59, 0.61])
    assert (merged.segment_id[:, 0] > 0).tolist() == [True, True, False]


def test_each_image_of_a_batch_has_its_own_thresholds():
    probs = [[[[0.9, 0.0]], [[0.0, 0.9]]]] * 3
    merged = check(probs, [[0.4, 0.8]] * 3, [False, False], [0.3, 0.5, 0.9], [0.0, 0.0, 0.0])
    assert merged.id_map.tolist() == [[[2, 1]], [[0, 1]], [[0, 0]]]


def test_padding_counts_in_no_area():
    probs = np.zeros((1, 1, 2, 4), np.float32)
    probs[..., :3] = 0.9
    valid = np.zeros((1, 2, 4), bool)
    valid[:, 0, :2] = True
    merged = check(probs, [[0.8]], [False], [0.3], [1.0], valid)
    assert merged.id_map.tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0]]]
    assert merged.area.tolist() == [[2]]


@pytest.mark.parametrize(("score", "overlap", "num_segments"), [(0.3, 0.6, 38), (0.9, 0.3, 60)])
def test_merge_of_153_discs_is_the_official_one(score, overlap, num_segments):
    # Made and enlarged as tests/golden/regenerate.py says: sigmoid, to 224x224, cut to 214x205, to 161x150.
    rng, n, size = np.random.Generator(np.random.PCG64(11)), 153, 56
    centre_y, centre_x = size * rng.random(n), size * rng.random(n)
    radius, class_logits = 1.5 + 5 * rng.random(n), -2 + 2 * rng.standard_normal((n, 133))
    y, x = np.mgrid[:size, :size]
    distance = np.hypot(y - centre_y[:, None, None], x - centre_x[:, None, None])
    probs = torch.from_numpy((radius[:, None, None] - distance) / 1.5)[None].float().sigmoid()
    probs = F.interpolate(probs, (224, 224), mode="bilinear", align_corners=False)[:, :, :214, :205]
    probs = F.interpolate(probs, (161, 150), mode="bilinear", align_corners=False)

    class_probs = torch.from_numpy(class_logits).float().sigmoid()
    thing_score, thing_class = class_probs[:100, :80].max(dim=1)
    scores = torch.cat((thing_score, class_probs[100:, 80:].diagonal()))[None]
    class_index = torch.cat((thing_class, torch.arange(80, 133)))
    is_stuff = torch.arange(n) >= 100

    merged = merge(probs, make_candidates(scores, is_stuff, torch.tensor([score]), "official"), torch.tensor([overlap]))
    value = torch.full((num_segments + 1,), 133)
    for kernel, segment in enumerate(merged.segment_id[0].tolist()):
        if segment:
            value[segment] = class_index[kernel] + 1000 * (segment - 1)
    with np.load(GOLDEN) as file:
        expected = file[f"merge_pan_thr{score}_ov{overlap}"]
    assert merged.id_map.max() == num_segments
    assert (value[merged.id_map[0].long()].numpy() == expected).all()
