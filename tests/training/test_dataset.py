from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from service.overlay import panoptic_png
from training.augment import UNCHANGED, AugmentConfig
from training.data.coco_panoptic import PanopticSource, read_id_map
from training.data.index import Record, SegmentInfo
from training.data.open import open_data
from training.dataset import TrainingSamples, collate, read_sample

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco200_panoptic"
PLAIN = replace(UNCHANGED, crop_size=32)


def make_record(folder, name, ids, crowd=(), group="", image=None):
    """An image file and id-map on disk; the class of id i is i % 3."""
    image_path, png_path = folder / f"{name}.png", folder / f"{name}_ids.png"
    cv2.imwrite(str(image_path), (ids * 37 % 251).astype(np.uint8) if image is None else image)
    (png_path).write_bytes(panoptic_png(ids.astype(np.int32)))
    present = [int(i) for i in np.unique(ids) if i]
    return Record(
        image_path=image_path,
        source=PanopticSource(
            path=png_path,
            segments=tuple(SegmentInfo(id=i, class_index=i % 3, is_crowd=i in crowd) for i in present[::-1]),
        ),
        group=group,
        height=ids.shape[0],
        width=ids.shape[1],
    )


def squares(height=60, width=80, first=1000):
    y, x = np.indices((height, width))
    return first + 100 * (y // 16) + x // 16


def equal(one, other):
    image, target = one
    other_image, other_target = other
    return (
        torch.equal(image, other_image)
        and torch.equal(target.masks, other_target.masks)
        and torch.equal(target.class_index, other_target.class_index)
        and target.valid_size == other_target.valid_size
    )


def test_sample_numbers_segments_in_their_order_and_keeps_void(tmp_path):
    ids = squares(first=70_000)
    ids[:8] = 0
    record = make_record(tmp_path, "a", ids, crowd=(70_100,))
    sample = read_sample(record)
    annotation = sample.annotation
    assert (read_id_map(record.source.path) == ids).all()
    assert sample.image.shape == (3, 60, 80)
    assert annotation.layers.shape == (1, 60, 80)
    assert (annotation.layers[0, :8] == 0).all()
    for segment, original in zip(annotation.segments, record.source.segments, strict=True):
        assert ((annotation.layers[0] == segment.id) == (ids == original.id)).all()
        assert (segment.class_index, segment.is_crowd) == (original.class_index, original.is_crowd)
    assert annotation.is_crowd.sum() == 1


def test_gray_and_colour_are_told_apart_and_colour_is_rgb(tmp_path):
    ids = squares()
    bgr = np.dstack([np.full_like(ids, value) for value in (1, 2, 3)]).astype(np.uint8)
    colour = read_sample(make_record(tmp_path, "colour", ids, image=bgr))
    assert not colour.is_gray
    assert colour.image[:, 0, 0].tolist() == [3, 2, 1]
    gray = read_sample(make_record(tmp_path, "gray", ids, image=np.full((*ids.shape, 3), 9, np.uint8)))
    assert gray.is_gray
    assert gray.image.shape == (3, 60, 80)
    assert (gray.image == 9).all()


def test_unusable_files_are_named(tmp_path):
    record = make_record(tmp_path, "a", squares())
    wrong_size = Record(**vars(record) | {"width": 81})
    with pytest.raises(ValueError, match=r"a\.png is 80x60, its annotation says 81x60"):
        read_sample(wrong_size)
    source = PanopticSource(path=record.source.path, segments=record.source.segments[1:])
    unlisted = Record(**vars(record) | {"source": source})
    with pytest.raises(ValueError, match=r"a_ids\.png holds ids that are not in segments_info: \[1304\]"):
        read_sample(unlisted)
    cv2.imwrite(str(record.source.path), np.zeros((60, 80), np.uint8))
    with pytest.raises(ValueError, match=r"a_ids\.png is not an 8-bit RGB PNG"):
        read_sample(record)
    record.image_path.write_bytes(record.image_path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"a\.png: .*Replace the file"):
        read_sample(record)
    record.image_path.unlink()
    with pytest.raises(ValueError, match=r"a\.png"):
        read_sample(record)


def test_element_depends_on_seed_and_number_alone(tmp_path):
    records = [make_record(tmp_path, f"{i}", squares(first=1 + 1000 * i)) for i in range(4)]
    config = AugmentConfig(crop_size=32)
    forward = TrainingSamples(records, config, seed=3, cache_bytes=10**6)
    resumed = TrainingSamples(records, config, seed=3, cache_bytes=0)
    elements = [forward[n] for n in range(8)]
    torch.manual_seed(99)
    assert all(equal(resumed[n], elements[n]) for n in reversed(range(8)))
    assert all(equal(forward[n], elements[n]) for n in range(8))  # nor was the cached image changed
    other = TrainingSamples(records, config, seed=4)
    assert not any(equal(other[n], elements[n]) for n in range(8))
    assert not equal(elements[0], elements[1])
    assert not equal(forward[len(forward)], elements[0])  # a second round is not the first again


def test_masks_and_classes_are_those_of_the_pixels(tmp_path):
    ids = squares(first=1)
    samples = TrainingSamples([make_record(tmp_path, "a", ids)], replace(PLAIN, min_area=1), seed=0)
    for n in range(10):
        image, target = samples[n]
        assert target.masks.dtype == torch.bool
        assert (target.masks.sum(dim=0) == 1).all()
        for mask, class_index in zip(target.masks, target.class_index.tolist(), strict=True):
            (value,) = image[0][mask].unique().tolist()
            assert class_index in {i % 3 for i in np.unique(ids).tolist() if i * 37 % 251 == value}


def test_small_pieces_crowds_and_void_are_in_no_mask(tmp_path):
    ids = np.full((32, 32), 1)
    ids[0:10, 0:10] = 0
    ids[20, 20:23] = 2
    ids[24, 20:24] = 3
    ids[0:10, 20:30] = 4
    record = make_record(tmp_path, "a", ids, crowd=(4,))
    _, target = TrainingSamples([record], replace(PLAIN, min_area=4), seed=0)[0]
    assert sorted(mask.sum().item() for mask in target.masks) == [4, 1024 - 100 - 3 - 4 - 100]
    covered = target.masks.any(dim=0).numpy()
    assert (covered == np.isin(ids, (1, 3))).all()
    assert (target.crowd_masks.numpy() == (ids == 4)[None]).all()
    assert target.crowd_class.tolist() == [4 % 3]
    assert target.path == record.image_path


def test_crop_without_any_segment_has_no_masks(tmp_path):
    ids = np.zeros((40, 40), np.int32)
    image, target = TrainingSamples([make_record(tmp_path, "a", ids)], PLAIN, seed=0)[0]
    assert target.masks.shape == (0, 32, 32)
    assert target.class_index.shape == (0,)
    assert image.shape == (3, 32, 32)


def test_groups_are_drawn_by_the_power_of_their_count_and_their_weight(tmp_path):
    # 16 images of one group, 4 of another: 4 to 2 by the square root, 4 to 6 with the weight 3.
    ids = np.ones((32, 32), np.int32)
    groups = ["32x32 gray"] * 16 + ["32x32 colour"] * 4
    image = np.zeros((32, 32, 3), np.uint8)
    records = []
    for number, group in enumerate(groups):
        image[..., 0] = number
        records.append(make_record(tmp_path, f"{number}", ids, group=group, image=image.copy()))
    samples = TrainingSamples(records, PLAIN, seed=0, group_weights={"colour": 3.0})
    drawn = Counter(round(float(samples[n][0][2].float().mean())) for n in range(2000))
    colour = sum(count for number, count in drawn.items() if number >= 16)
    assert 0.56 < colour / 2000 < 0.64
    assert len(drawn) == 20
    assert max(drawn[number] for number in range(16)) < 3 * min(drawn[number] for number in range(16))


def test_weight_of_a_group_that_is_not_there_is_refused(tmp_path):
    record = make_record(tmp_path, "a", squares(), group="80x60 gray")
    with pytest.raises(ValueError, match="no group ends with 'color'; groups: 80x60 gray"):
        TrainingSamples([record], PLAIN, seed=0, group_weights={"color": 2.0})


def test_collate_stacks_images_and_lists_targets(tmp_path):
    samples = TrainingSamples([make_record(tmp_path, "a", squares())], AugmentConfig(crop_size=32), seed=0)
    images, targets = collate([samples[n] for n in range(3)])
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert [target.masks.shape[1:] for target in targets] == [(32, 32)] * 3


@pytest.mark.skipif(not COCO.is_dir(), reason="needs the COCO images in ../shared/data")
def test_coco_images_become_samples_and_crops():
    records = open_data(COCO, "val").records[:4]
    for record in records:
        annotation = read_sample(record).annotation
        assert annotation.layers.max() == len(annotation.class_index)
    samples = TrainingSamples(records, AugmentConfig(crop_size=64, turns=False), seed=0)
    images, targets = collate([samples[n] for n in range(6)])
    assert images.shape == (6, 3, 64, 64)
    assert all((target.masks.sum(dim=0) <= 1).all() for target in targets)
