"""`knet evaluate`: scores of a checkpoint, an artifact or a running server on annotated images."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from knet.client import KNetClient, decode_mask
from model.checkpoint import CONFIG
from model.checkpoint import load as load_checkpoint
from model.config import Category
from service.artifact import FILE_NAME
from service.artifact import load as load_artifact
from service.segmenter import Segmenter
from service.segments import Segment, Segmentation
from service.session import OnnxSession
from training.evaluate import Predict, evaluate, predict_by, segmenter_of
from training.metrics import print_summary
from training.run import read_split


def evaluate_model(model: str, data: Path, split: Literal["train", "val"], url: str | None, out: Path | None) -> None:
    """Print the scores and, where `out` is given, write them as JSON.

    Args:
        model: folder of a checkpoint or of an artifact; with `url`, the name of a model of that server.
        data: a COCO panoptic set, or dsb2018_nuclei.

    Raises:
        ValueError: the model or the data cannot be used, or their categories differ.
    """
    with TemporaryDirectory() as scratch:
        index = read_split(data, split, converted=Path(scratch) / "data")
        if url is None:
            predict = predict_by(local_segmenter(Path(model), index.categories))
            evaluation = evaluate(predict, index.categories, index.records)
        else:
            with KNetClient(url) as client:
                client.wait_ready(timeout=60.0)
                predict = predict_by_server(client, model, index.categories)
                evaluation = evaluate(predict, index.categories, index.records)
    print_summary(evaluation)
    if out is not None:
        scores = {"all": evaluation.summary(), "groups": evaluation.group_summaries()}
        out.write_text(json.dumps(scores, indent=2) + "\n")


def local_segmenter(folder: Path, categories: tuple[Category, ...]) -> Segmenter:
    """The serving path around a checkpoint (in PyTorch) or an artifact (in ONNX Runtime)."""
    if (folder / CONFIG).is_file():
        segmenter = segmenter_of(load_checkpoint(folder))
    elif (folder / FILE_NAME).is_file():
        metadata = load_artifact(folder)
        segmenter = Segmenter(metadata, OnnxSession(folder / metadata.variants[0].file))
    else:
        raise ValueError(f"{folder} is neither a checkpoint (no {CONFIG}) nor an artifact (no {FILE_NAME})")
    ours, theirs = ([(c.id, c.name) for c in some] for some in (segmenter.metadata.categories, categories))
    if ours != theirs:
        raise ValueError(f"the model knows the categories {ours}, the data has {theirs}")
    return segmenter


def predict_by_server(client: KNetClient, model: str, categories: tuple[Category, ...]) -> Predict:
    """File content -> segments, by posting it."""
    class_index = {category.id: index for index, category in enumerate(categories)}

    def predict(content: bytes) -> Segmentation:
        answer = client.segment(content, model=model, task="panoptic")
        id_map = np.zeros((answer["image"]["height"], answer["image"]["width"]), np.int32)
        for segment in answer["segments"]:
            id_map[decode_mask(segment)] = segment["id"]
        return Segmentation(id_map=id_map, segments=tuple(_segment(entry, class_index) for entry in answer["segments"]))

    return predict


def _segment(entry: dict[str, Any], class_index: dict[int, int]) -> Segment:
    if entry["category_id"] not in class_index:
        raise ValueError(f"the server answers category {entry['category']!r}, which the data does not have")
    x, y, width, height = entry["bbox"]
    return Segment(
        id=entry["id"],
        class_index=class_index[entry["category_id"]],
        score=entry["score"],
        area=entry["area"],
        bbox=(x, y, width, height),
    )
