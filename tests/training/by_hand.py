"""Predictions and annotations from small maps and masks, by hand or at random."""

import numpy as np

from model.config import Category
from service import rle
from service.instances import Instances
from service.segments import Segment, Segmentation
from training.data.index import Annotation

CATEGORIES = (
    Category(id=7, name="cell", is_thing=True, colour=(1, 2, 3)),
    Category(id=8, name="dot", is_thing=True, colour=(4, 5, 6)),
    Category(id=9, name="ground", is_thing=False, colour=(7, 8, 9)),
)
CELL, DOT, GROUND = 0, 1, 2


def row(*runs):
    """An id-map of one row from (id, length) pairs."""
    return np.repeat([i for i, _ in runs], [n for _, n in runs])[None].astype(np.int32)


def segmentation(id_map, classes):
    """Ids 1, 2, ... of the map have these classes."""
    segments = tuple(
        Segment(id=i, class_index=c, score=1 - i / 100, area=int((id_map == i).sum()), bbox=(0, 0, 1, 1))
        for i, c in enumerate(classes, start=1)
    )
    return Segmentation(id_map=id_map, segments=segments)


def annotation(layers, classes, crowd=()):
    """Likewise; `crowd` holds ids; a map alone is one layer."""
    is_crowd = np.array([i in crowd for i in range(1, len(classes) + 1)], bool)
    layers = layers if layers.ndim == 3 else layers[None]
    return Annotation(layers=layers, class_index=np.array(classes, np.int64), is_crowd=is_crowd)


def instances(masks, classes, scores):
    """Masks (P, H, W) that may overlap, by descending score."""
    segments, counts = [], []
    for mask, class_index, score in zip(masks, classes, scores, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        bbox = (x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)
        area = int(mask.sum())
        segments.append(
            Segment(id=len(segments) + 1, class_index=int(class_index), score=float(score), area=area, bbox=bbox)
        )
        counts += rle.encode(mask.astype(np.int32), [1])
    return Instances(image_size=masks.shape[1:], segments=tuple(segments), counts=tuple(counts))


def blobs(rng, size=24):
    """A random id-map of rectangles over ground with void in it, and the class of each id; crowds among the ids."""
    ids = np.ones((size, size), np.int32)
    classes = [GROUND]
    for number in range(2, 2 + int(rng.integers(1, 6))):
        y, x = rng.integers(0, size - 4, 2)
        height, width = rng.integers(3, 12, 2)
        ids[y : y + height, x : x + width] = number
        classes.append(int(rng.integers(2)))
    y, x = rng.integers(0, size, 2)
    ids[y : y + 6, x : x + 6] = 0
    ids, classes = renumber(ids, classes)
    crowd = tuple(i for i, c in enumerate(classes, start=1) if c != GROUND and rng.random() < 0.2)
    return ids, classes, crowd


def renumber(ids, classes):
    """Without the ids that have no pixel."""
    present = [i for i in np.unique(ids).tolist() if i]
    new_id = np.zeros(len(classes) + 1, np.int32)
    new_id[present] = np.arange(1, len(present) + 1)
    return new_id[ids], [classes[i - 1] for i in present]


def disturb(rng, ids, classes, *, shift=3, num_classes=3):
    """The map moved a little, with some segments gone, joined, split or of another class."""
    moved = np.roll(ids, rng.integers(-shift, shift + 1, 2), (0, 1))
    classes = list(classes)
    for number in range(1, len(classes) + 1):
        what = rng.random()
        if what < 0.1:
            moved[moved == number] = 0
        elif what < 0.2:
            moved[moved == number] = int(rng.integers(1, len(classes) + 1))
        elif what < 0.35:
            half = np.zeros(moved.shape, bool)
            half[:, ::2] = True
            classes.append(classes[number - 1])
            moved[(moved == number) & half] = len(classes)
        elif what < 0.5:
            classes[number - 1] = int(rng.integers(num_classes))
    return renumber(moved, classes)
