"""Any readable data set as COCO panoptic."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy.ndimage import find_objects  # type: ignore[import-untyped]

from service.overlay import panoptic_png
from training.data.index import Annotation, DataIndex
from training.data.open import find_data


def convert(data: Path, out: Path, description: Path | None = None) -> None:
    """Write all splits of `data` to `out`: the images as they are, id-maps and JSON as COCO panoptic has them.

    `out` appears only when everything in it is written. Raises ValueError where the data cannot be used, where `out`
    already holds something, and for instances, whose masks may overlap.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists: convert into a new folder, or delete it first")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed conversion left
    found = find_data(data, description)
    for split in found.splits:
        index = found.read(split)
        if index.kind == "instance":
            raise ValueError(f"{data} is {index.format}, whose masks may overlap: COCO panoptic cannot hold them")
        _write_split(partial, split, index)
    if out.exists():
        out.rmdir()
    partial.rename(out)


def _write_split(folder: Path, name: str, index: DataIndex) -> None:
    """Write images, id-maps and JSON of one split."""
    image_folder = folder / "images" / name
    map_folder = folder / "annotations" / f"panoptic_{name}"
    for path in (image_folder, map_folder):
        path.mkdir(parents=True)
    images, annotations = [], []
    for record in track(index.records, description=f"convert {name}"):
        annotation = record.source.read(record.height, record.width)
        image_name, map_name = record.image_path.name, f"{record.image_path.stem}.png"
        if (map_folder / map_name).exists():
            raise ValueError(f"{record.image_path}: another image has the same name or stem; rename one of them")
        entry = {"id": record.image_path.stem, "file_name": image_name, "width": record.width, "height": record.height}
        images.append(entry | ({"group": record.group} if record.group else {}))
        shutil.copyfile(record.image_path, image_folder / image_name)
        (map_folder / map_name).write_bytes(panoptic_png(annotation.layers[0]))
        segments_info = list(_describe(annotation, index))
        annotations.append({"image_id": entry["id"], "file_name": map_name, "segments_info": segments_info})
    categories = [
        {"id": known.id, "name": known.name, "isthing": int(known.is_thing), "color": list(known.colour)}
        for known in index.categories
    ]
    document = {"categories": categories, "images": images, "annotations": annotations}
    (folder / "annotations" / f"panoptic_{name}.json").write_text(json.dumps(document))


def _describe(annotation: Annotation, index: DataIndex) -> Iterator[dict[str, Any]]:
    """One segments_info entry for each segment that has pixels."""
    id_map = annotation.layers[0]
    areas = np.bincount(id_map.ravel())
    boxes = find_objects(id_map)
    for segment in annotation.segments:
        if segment.id > len(boxes) or boxes[segment.id - 1] is None:
            continue
        rows, columns = boxes[segment.id - 1]
        yield {
            "id": segment.id,
            "category_id": index.categories[segment.class_index].id,
            "area": int(areas[segment.id]),
            "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            "iscrowd": int(segment.is_crowd),
        }
