import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from service import rle

ID_MAPS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 5))


def by_pycocotools(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@given(ID_MAPS, st.permutations(range(1, 7)))
def test_counts_equal_those_of_pycocotools(id_map, ids):
    assert rle.encode(id_map, ids) == [by_pycocotools(id_map == i) for i in ids]


@given(ID_MAPS)
def test_decoding_gives_the_mask_back(id_map):
    for i, counts in zip(range(1, 7), rle.encode(id_map, range(1, 7)), strict=True):
        np.testing.assert_array_equal(rle.decode(counts, id_map.shape), id_map == i)


@pytest.mark.parametrize("num_ids", [3, 300, 70_000])
def test_large_maps_with_many_ids_equal_pycocotools(num_ids):
    rng = np.random.default_rng(num_ids)
    id_map = np.repeat(np.repeat(rng.integers(0, num_ids + 1, (60, 50), np.int32), 9, 0), 11, 1)
    ids = np.unique(id_map)[1:][:200].tolist()
    assert rle.encode(id_map, ids) == [by_pycocotools(id_map == i) for i in ids]


def test_runs_longer_than_one_character_decode():
    mask = np.zeros((3000, 2000), bool)
    mask[10:2900, 5:1500] = True
    counts = by_pycocotools(mask)
    np.testing.assert_array_equal(rle.decode(counts, mask.shape), mask)
    np.testing.assert_array_equal(rle.decode(counts.encode(), list(mask.shape)), mask)


def test_no_ids_give_no_counts():
    assert rle.encode(np.zeros((3, 3), np.int32), []) == []


@pytest.mark.parametrize(
    ("counts", "size"), [("13", (3, 3)), ("", (1, 1)), ("o", (1, 1)), ("\x1f", (1, 1)), ("o" * 40 + "0", (1, 1))]
)
def test_counts_that_make_no_mask_of_that_size_are_refused(counts, size):
    with pytest.raises(ValueError, match="RLE"):
        rle.decode(counts, size)


@given(ID_MAPS)
def test_runs_of_a_mask_make_its_counts(id_map):
    counts = by_pycocotools(id_map == 1)
    starts, ends = rle.decode_runs(counts, id_map.shape)
    flat = np.zeros(id_map.size, bool)
    for start, end in zip(starts, ends, strict=True):
        flat[start:end] = True
    np.testing.assert_array_equal(flat, (id_map == 1).T.ravel())
    assert rle.encode_runs(starts, ends, id_map.size) == counts
