"""The 2018 Data Science Bowl nuclei (`dsb2018_nuclei` layout) as COCO panoptic, with a fixed split.

Source: `images/<id>.png`, `instance_maps/<id>.png` (0 background, 1..n nuclei) and `index.csv`
(id, width, height, nuclei, kind). Result: `annotations/panoptic_{train,val}.json`, the id-maps beside them
in `annotations/panoptic_{train,val}/<id>.png` and the images, byte for byte, in `images/{train,val}/`.

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
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.progress import track
from scipy.ndimage import find_objects  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

THUMBNAIL_SIZE = 128
MIN_PEAK = 0.1
MIN_CORRELATION = 0.9
MIN_OVERLAP = 0.2
VAL_FRACTION = 0.15

NUCLEUS_ID = 1
BACKGROUND_ID = 2
CATEGORIES: list[dict[str, Any]] = [
    {"id": NUCLEUS_ID, "name": "nucleus", "isthing": 1, "color": [235, 108, 36]},
    {"id": BACKGROUND_ID, "name": "background", "isthing": 0, "color": [40, 44, 52]},
]


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
    """Whether `folder` has the layout that `convert` reads."""
    return (folder / "index.csv").is_file() and all((folder / name).is_dir() for name in ("images", "instance_maps"))


def convert(source: Path, out: Path) -> None:
    """Write the nuclei in `source` to `out` as COCO panoptic, split as the module says.

    `out` appears only when everything in it is written. Raises ValueError, naming the file, where an image or
    its labels are missing or unreadable or do not fit together, and where `out` already holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists: convert into a new folder, or delete it first")
    fields = read_index(source)
    validation = split(fields)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed conversion left
    for name in ("train", "val"):
        chosen = [field for field in fields if (field.id in validation) == (name == "val")]
        _write_split(partial, name, chosen)
    if out.exists():
        out.rmdir()
    partial.rename(out)


def read_index(source: Path) -> list[Field]:
    """The images that `index.csv` lists, in order of their id."""
    if not is_dsb2018(source):
        raise ValueError(f"{source} is not the dsb2018_nuclei layout: it needs index.csv, images/, instance_maps/")
    fields = []
    with (source / "index.csv").open(newline="") as file:
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


def split(fields: Sequence[Field]) -> set[str]:
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
    return validation


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


def _write_split(folder: Path, name: str, fields: Sequence[Field]) -> None:
    """Write images, id-maps and JSON of one split."""
    image_folder = folder / "images" / name
    map_folder = folder / "annotations" / f"panoptic_{name}"
    for path in (image_folder, map_folder):
        path.mkdir(parents=True)
    images, annotations = [], []
    for field in track(fields, description=f"convert {name}"):
        id_map = _read_labels(field)
        file_name = f"{field.id}.png"
        size = {"width": field.width, "height": field.height}
        images.append({"id": field.id, "file_name": file_name, **size, "group": field.group})
        shutil.copyfile(field.image_path, image_folder / file_name)
        background = int(id_map.max()) + 1
        id_map[id_map == 0] = background
        write_id_map(map_folder / file_name, id_map)
        categories = defaultdict(lambda: NUCLEUS_ID, {background: BACKGROUND_ID})
        segments_info = list(_describe(id_map, categories))
        annotations.append({"image_id": field.id, "file_name": file_name, "segments_info": segments_info})
    document = {
        "info": {"description": "2018 Data Science Bowl nuclei (BBBC038), CC0; split by training/nuclei.py"},
        "categories": CATEGORIES,
        "images": images,
        "annotations": annotations,
    }
    (folder / "annotations" / f"panoptic_{name}.json").write_text(json.dumps(document))


def _read_labels(field: Field) -> npt.NDArray[np.int32]:
    labels = cv2.imread(str(field.label_path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{field.label_path} is not an 8 or 16 bit gray PNG with one number for each nucleus")
    if labels.shape != (field.height, field.width):
        raise ValueError(
            f"{field.label_path} is {labels.shape[1]}x{labels.shape[0]}, "
            f"its image {field.width}x{field.height}: replace it"
        )
    if not labels.any():
        raise ValueError(f"{field.label_path} labels no nucleus: if that is right, leave it out of index.csv")
    return labels.astype(np.int32)


def write_id_map(path: Path, id_map: npt.NDArray[np.int32]) -> None:
    """Write `id_map` (H, W) as a COCO panoptic PNG: id = R + 256 G + 65536 B."""
    blue_green_red = np.stack([id_map >> 16, id_map >> 8 & 255, id_map & 255], axis=-1).astype(np.uint8)
    if not cv2.imwrite(str(path), blue_green_red):
        raise OSError(f"could not write {path}")


def _describe(id_map: npt.NDArray[np.int32], categories: Mapping[int, int]) -> Iterator[dict[str, Any]]:
    """One segments_info entry for each id in `id_map` (H, W)."""
    areas = np.bincount(id_map.ravel())
    for index, box in enumerate(find_objects(id_map), start=1):
        if box is None:
            continue
        rows, columns = box
        yield {
            "id": index,
            "category_id": categories[index],
            "area": int(areas[index]),
            "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            "iscrowd": 0,
        }
