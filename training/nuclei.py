"""The 2018 Data Science Bowl nuclei (`dsb2018_nuclei` layout): instance label maps with a fixed split.

`images/<id>.png`, `instance_maps/<id>.png` (0 background, 1..n nuclei) and `index.csv` (id, width, height, nuclei,
kind).

The split is a pure function of the images. Groups are size and kind ("256x256 gray").

1. Two images of a group are the same field when the phase correlation of their thumbnails (128x128, area averaged,
   zero mean, unit deviation) peaks at 0.1 or more **and** the thumbnails, laid over each other at that shift, correlate
   by 0.9 or more over an overlap of at least a fifth of the area. The peak alone does not decide: sparse fields reach
   0.3 by the flat background they share, as much as two overlapping cuts of one slide. No Hann window, because it
   hides such shifts and makes flat fields alike (0.6).
2. Images joined by such pairs form a cluster, and a cluster is never divided.
3. A group of n >= 3 images gives max(1, round(0.15 n)) to validation: clusters are taken in the order of the
   SHA-256 of their smallest id while they fit into what is left. Groups of fewer images train only.
"""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rich.progress import track
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from model.config import Category
from training.data.index import DataIndex, Record, Split
from training.data.label_maps import LabelMapSource

THUMBNAIL_SIZE = 128
MIN_PEAK = 0.1
MIN_CORRELATION = 0.9
MIN_OVERLAP = 0.2
VAL_FRACTION = 0.15

CATEGORIES = (
    Category(id=1, name="nucleus", is_thing=True, colour=(235, 108, 36)),
    Category(id=2, name="background", is_thing=False, colour=(40, 44, 52)),
)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One line of index.csv: an image, its labels and what it is."""

    id: str
    image_path: Path
    label_path: Path
    width: int
    height: int
    kind: str

    @property
    def group(self) -> str:
        """Size and kind, such as "256x256 gray"."""
        return f"{self.width}x{self.height} {self.kind}"


def is_dsb2018(folder: Path) -> bool:
    """Whether `folder` has the layout of `dsb2018_nuclei`."""
    return (folder / "index.csv").is_file() and all((folder / name).is_dir() for name in ("images", "instance_maps"))


def nuclei_index(source: Path, split: Split) -> DataIndex:
    """The images of one split, in the order of their ids; their groups are size and kind."""
    fields = read_index(source)
    validation = validation_ids(tuple(fields))
    return DataIndex(
        format="instance label maps",
        kind="panoptic",
        categories=CATEGORIES,
        records=tuple(
            Record(
                image_path=field.image_path,
                source=LabelMapSource(path=field.label_path),
                group=field.group,
                height=field.height,
                width=field.width,
            )
            for field in fields
            if (field.id in validation) == (split == "val")
        ),
    )


def read_index(source: Path) -> list[Field]:
    """The images that `index.csv` lists, in order of their id."""
    if not is_dsb2018(source):
        raise ValueError(f"{source} is not the dsb2018_nuclei layout: it needs index.csv, images/, instance_maps/")
    fields = []
    with (source / "index.csv").open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                field = Field(
                    id=row["id"],
                    image_path=source / "images" / f"{row['id']}.png",
                    label_path=source / "instance_maps" / f"{row['id']}.png",
                    width=int(row["width"]),
                    height=int(row["height"]),
                    kind=row["kind"],
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{source / 'index.csv'}, line {reader.line_num}: need id, width, height, kind; got {row}"
                ) from error
            for path in (field.image_path, field.label_path):
                if not path.is_file():
                    raise ValueError(f"{path} is missing: add it, or take line {reader.line_num} out of index.csv")
            fields.append(field)
    if not fields:
        raise ValueError(f"{source / 'index.csv'} lists no image")
    fields.sort(key=lambda field: field.id)
    for first, second in pairwise(fields):
        if first.id == second.id:
            raise ValueError(f"{source / 'index.csv'} lists {first.id} twice: remove one of the lines")
    return fields


@lru_cache(maxsize=2)  # training opens both splits
def validation_ids(fields: tuple[Field, ...]) -> frozenset[str]:
    """Ids of the validation images."""
    groups: dict[str, list[Field]] = defaultdict(list)
    for field in fields:
        groups[field.group].append(field)
    validation: set[str] = set()
    for group in track(sorted(groups), description="compare fields", transient=True):
        thumbnails = np.stack([_thumbnail(field) for field in groups[group]])
        ids = [field.id for field in groups[group]]
        clusters = [[ids[i] for i in cluster] for cluster in find_clusters(thumbnails)]
        validation |= choose_validation(clusters)
    return frozenset(validation)


def find_clusters(thumbnails: npt.NDArray[np.float32]) -> list[list[int]]:
    """Indices of `thumbnails` (n, t, t), each of zero mean and unit deviation, by the field they show."""
    count, size, _ = thumbnails.shape
    spectra = np.fft.rfft2(thumbnails)
    spectra /= np.abs(spectra) + 1e-6
    pairs: list[tuple[int, int]] = []
    for first in range(count - 1):
        surfaces = np.fft.irfft2(spectra[first] * spectra[first + 1 :].conj(), s=(size, size))
        surfaces = surfaces.reshape(count - first - 1, -1)
        for offset in np.flatnonzero(surfaces.max(axis=1) >= MIN_PEAK):
            second = first + 1 + int(offset)
            shift = divmod(int(surfaces[offset].argmax()), size)
            if _overlap_correlation(thumbnails[first], thumbnails[second], shift) >= MIN_CORRELATION:
                pairs.append((first, second))
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    return [np.flatnonzero(labels == label).tolist() for label in range(int(labels.max()) + 1)]


def choose_validation(clusters: Sequence[Sequence[str]]) -> set[str]:
    """Ids that one group gives to validation, whole clusters only."""
    count = sum(len(cluster) for cluster in clusters)
    left = max(1, round(VAL_FRACTION * count)) if count >= 3 else 0
    chosen: set[str] = set()
    for cluster in sorted(clusters, key=lambda cluster: hashlib.sha256(min(cluster).encode()).digest()):
        if len(cluster) <= left:
            chosen.update(cluster)
            left -= len(cluster)
    return chosen


def _thumbnail(field: Field) -> npt.NDArray[np.float32]:
    """The image in gray, (t, t), zero mean, unit deviation."""
    image = cv2.imread(str(field.image_path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{field.image_path} is not a readable image: replace it, or remove it from index.csv")
    if image.shape != (field.height, field.width):
        raise ValueError(
            f"{field.image_path} is {image.shape[1]}x{image.shape[0]}, "
            f"index.csv says {field.width}x{field.height}: correct the line"
        )
    small = cv2.resize(image.astype(np.float32), (THUMBNAIL_SIZE, THUMBNAIL_SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray((small - small.mean()) / (small.std() + 1e-6), np.float32)


def _overlap_correlation(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], shift: tuple[int, int]
) -> float:
    """Best correlation of two thumbnails at `shift` (rows, columns; cyclic, so each may also be negative)."""
    size = first.shape[0]
    best = 0.0
    for dy in (shift[0], shift[0] - size):
        for dx in (shift[1], shift[1] - size):
            height, width = size - abs(dy), size - abs(dx)
            if height * width < MIN_OVERLAP * size * size:
                continue
            a = first[max(0, dy) :, max(0, dx) :][:height, :width]
            b = second[max(0, -dy) :, max(0, -dx) :][:height, :width]
            a, b = a - a.mean(), b - b.mean()
            best = max(best, float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-6)))
    return best
