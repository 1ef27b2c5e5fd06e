"""Scores of another program's label maps, counted by ours: python -m benchmarks.score_label_maps DATA LABELS

DATA is a set of instance label maps with one category of things (dsb2018_nuclei); LABELS holds a PNG (8 or 16 bit, 0
background, 1..n objects) a validation image, named as it is.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from service.segments import from_id_map
from training.data.open import open_data
from training.metrics import Evaluation, Plan
from training.score_tables import print_scores


def main() -> None:
    """Score every validation image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("labels", type=Path)
    arguments = parser.parse_args()
    index = open_data(arguments.data, "val")
    stuff = next(place for place, category in enumerate(index.categories) if not category.is_thing)
    evaluation = Evaluation(index.categories, Plan(metrics=frozenset({"pq", "ap", "miou"})))
    for record in track(index.records, description="scoring"):
        labels = cv2.imread(str(arguments.labels / f"{record.image_path.stem}.png"), cv2.IMREAD_UNCHANGED)
        if labels is None:
            raise SystemExit(f"{arguments.labels} has no {record.image_path.stem}.png")
        num_objects = int(labels.max())
        # What is no object is background, as in the data.
        id_map = np.where(labels == 0, num_objects + 1, labels).astype(np.int32)
        prediction = from_id_map(id_map, [0] * num_objects + [stuff], [1.0] * (num_objects + 1))
        evaluation.add(
            prediction,
            record.source.read(record.height, record.width),
            name=record.image_path.name,
            group=record.group,
        )
    scores = evaluation.scores()
    print_scores(scores)
    print(json.dumps(scores.summary))


if __name__ == "__main__":
    main()
