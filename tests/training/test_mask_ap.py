"""Mask AP against pycocotools as people run it, on files, and against hand-made cases."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.mask_ap import MaskAP

CELL, DOT, GROUND = 0, 1, 2
SIZE = 120


def random_masks(rng, count):
    """Rectangles of sizes that COCO calls small, medium and large, which may overlap."""
    masks = np.zeros((count, SIZE, SIZE), bool)
    for mask in masks:
        height, width = rng.choice([8, 20, 50, 110], 2) - rng.integers(0, 4, 2)
        y, x = rng.integers(0, SIZE - height + 1), rng.integers(0, SIZE - width + 1)
        mask[y : y + height, x : x + width] = True
    return masks


def random_image(rng):
    """True masks, their classes and which are crowds; predicted masks, classes and scores."""
    masks = random_masks(rng, int(rng.integers(0, 6)))
    classes, is_crowd = rng.integers(0, 2, len(masks)), rng.random(len(masks)) < 0.2
    moved = [np.roll(mask, rng.integers(-6, 7, 2), (0, 1)) for mask in masks for _ in range(int(rng.integers(0, 3)))]
    predicted = np.concatenate([np.array(moved, bool).reshape(-1, SIZE, SIZE), random_masks(rng, 3)])
    predicted_classes = rng.integers(0, 2, len(predicted))
    scores = np.sort(rng.integers(0, 20, len(predicted)) / 20)[::-1]  # some are equal
    return masks, classes, is_crowd, predicted, predicted_classes, scores


def layered(masks):
    """One layer for each mask."""
    return np.stack([mask.astype(np.int32) * number for number, mask in enumerate(masks, start=1)]) if len(masks) else (
        np.zeros((1, SIZE, SIZE), np.int32)
    )  # fmt: skip


def as_rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def pycocotools_statistics(images, folder):
    """The twelve numbers that pycocotools gives for annotation and result files."""
    annotations, results = [], []
    for number, (masks, classes, is_crowd, predicted, predicted_classes, scores) in enumerate(images):
        for mask, class_index, crowd in zip(masks, classes.tolist(), is_crowd.tolist(), strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": class_index + 1, "iscrowd": int(crowd),
                 "segmentation": as_rle(mask), "area": int(mask.sum()), "bbox": [0, 0, 1, 1]}
            )  # fmt: skip
        for mask, class_index, score in zip(predicted, predicted_classes.tolist(), scores.tolist(), strict=True):
            results.append(
                {"image_id": number, "category_id": class_index + 1, "segmentation": as_rle(mask), "score": score}
            )
    document = {
        "info": {},
        "images": [{"id": number, "height": SIZE, "width": SIZE} for number in range(len(images))],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}],
        "annotations": annotations,
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(6))
def test_mask_ap_equals_pycocotools(by_hand, seed, tmp_path):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(8)]
    ours = MaskAP(by_hand.CATEGORIES)
    for masks, classes, is_crowd, predicted, predicted_classes, scores in images:
        annotation = by_hand.annotation(layered(masks), classes, crowd=np.flatnonzero(is_crowd) + 1)
        ours.add(by_hand.instances(predicted, predicted_classes, scores), annotation)
    statistics = pycocotools_statistics(images, tmp_path)
    names = {0: "ap", 1: "ap50", 2: "ap75", 3: "ap_small", 4: "ap_medium", 5: "ap_large", 8: "ar"}
    summary = ours.score().summary
    assert 0 < summary["mask_ap"] < 1
    for place, name in names.items():
        assert summary.get(f"mask_{name}", -1) == pytest.approx(statistics[place], abs=1e-12)


def image_of_two(by_hand):
    ids = np.zeros((40, 40), np.int32)
    ids[2:12, 2:12], ids[20:38, 20:38] = 1, 2
    return ids, by_hand.annotation(ids, [CELL, DOT])


def test_a_map_of_segments_scores_as_its_masks_do_and_stuff_is_left_out(by_hand):
    ids, annotation = image_of_two(by_hand)
    ids = np.where(ids == 0, 3, ids)
    ours = MaskAP(by_hand.CATEGORIES)
    ours.add(by_hand.segmentation(ids, [CELL, DOT, GROUND]), annotation)
    scores = ours.score()
    assert scores.summary["mask_ap"] == pytest.approx(1)
    assert scores.by_class[:2].tolist() == pytest.approx([1, 1])
    assert np.isnan(scores.by_class[GROUND])


def test_a_prediction_in_a_crowd_counts_neither_way(by_hand):
    ids, annotation = image_of_two(by_hand)
    masks = np.stack([ids == 1, ids == 2])
    crowded = replace(annotation, class_index=np.array([CELL, CELL]), is_crowd=np.array([False, True]))
    ours, plain = MaskAP(by_hand.CATEGORIES), MaskAP(by_hand.CATEGORIES)
    prediction = by_hand.instances(masks[::-1], [CELL, CELL], [0.9, 0.8])
    ours.add(prediction, crowded)
    plain.add(prediction, by_hand.annotation(np.where(ids == 1, 1, 0).astype(np.int32), [CELL]))
    assert ours.score().summary["mask_ap"] == pytest.approx(1)
    assert plain.score().summary["mask_ap"] == pytest.approx(0.5)


def test_groups_are_scored_by_themselves(by_hand):
    ids, annotation = image_of_two(by_hand)
    ours = MaskAP(by_hand.CATEGORIES)
    ours.add(by_hand.segmentation(ids, [CELL, DOT]), annotation, group="good")
    ours.add(by_hand.segmentation(np.zeros_like(ids), []), annotation, group="bad")
    assert ours.score("good").summary["mask_ap"] == pytest.approx(1)
    assert ours.score("bad").summary["mask_ap"] == 0
    assert ours.score().summary["mask_ap"] == pytest.approx(0.5, abs=0.01)


def test_nothing_predicted_scores_zero_and_nothing_annotated_is_not_defined(by_hand):
    ids, annotation = image_of_two(by_hand)
    empty = by_hand.annotation(np.zeros_like(ids), [])
    for prediction, truth, expected in (
        (by_hand.segmentation(np.zeros_like(ids), []), annotation, 0),
        (by_hand.segmentation(ids, [CELL, DOT]), empty, None),
        (by_hand.segmentation(np.zeros_like(ids), []), empty, None),
    ):
        ours = MaskAP(by_hand.CATEGORIES)
        ours.add(prediction, truth)
        assert ours.score().summary.get("mask_ap") == expected
    assert MaskAP(by_hand.CATEGORIES).score().summary == {}
    assert MaskAP(by_hand.CATEGORIES[2:]).score().summary == {}  # no class of things at all


def test_pycocotools_prints_nothing_here(by_hand, capsys):
    MaskAP(by_hand.CATEGORIES).score()
    assert capsys.readouterr().out == ""
