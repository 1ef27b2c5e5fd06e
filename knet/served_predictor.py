"""A running server as what evaluation asks for predictions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from knet.client import KNetClient, decode_mask
from service.instances import Instances, Result
from service.schemas import ModelVersion
from service.segments import SEMANTIC_SCORE, Segment, Segmentation
from training.predictor import Predictor


def served_predictor(client: KNetClient, model: str, *, version: str | None = None, views: int = 1) -> Predictor:
    """A server's model, asked for its own kind of answer.

    Args:
        client: of the server.
        model: name of the model.
        version: None: the newest.
        views: as in `service.views`.

    Raises:
        KNetError: the server does not have the model.
        ValueError: the model does not have that version.
    """
    versions = [ModelVersion.model_validate(entry) for entry in client.model(model)["versions"]]
    found = [each for each in versions if version in (None, each.version)]
    if not found:
        there = ", ".join(each.version for each in versions)
        raise ValueError(f"{model} has no version {version!r} on this server; legal: {there}")
    about = found[-1]
    is_instance = about.kind == "instance"
    any_score = 0.0 if is_instance else None
    class_index = {category.id: index for index, category in enumerate(about.categories)}
    read = _read_instances if is_instance else _read_map
    return Predictor(
        name=f"{model}/{about.version}",
        kind=about.kind,
        categories=about.categories,
        score_threshold=about.thresholds.score,
        predict=lambda content: read(
            client.segment(content, model=model, version=about.version, score_threshold=any_score, views=views),
            class_index,
        ),
    )


def _read_map(answer: Mapping[str, Any], class_index: Mapping[int, int]) -> Result:
    """An answer whose masks lie apart."""
    id_map = np.zeros((answer["image"]["height"], answer["image"]["width"]), np.int32)
    for entry in answer["segments"]:
        id_map[decode_mask(entry)] = entry["id"]
    return Segmentation(id_map=id_map, segments=_segments(answer, class_index))


def _read_instances(answer: Mapping[str, Any], class_index: Mapping[int, int]) -> Result:
    """An answer whose masks may overlap."""
    return Instances(
        image_size=(answer["image"]["height"], answer["image"]["width"]),
        segments=_segments(answer, class_index),
        counts=tuple(entry["segmentation"]["counts"] for entry in answer["segments"]),
    )


def _segments(answer: Mapping[str, Any], class_index: Mapping[int, int]) -> tuple[Segment, ...]:
    segments = []
    for entry in answer["segments"]:
        x, y, width, height = entry["bbox"]
        segments.append(
            Segment(
                id=entry["id"],
                class_index=class_index[entry["category_id"]],
                score=SEMANTIC_SCORE if entry["score"] is None else entry["score"],
                area=entry["area"],
                bbox=(x, y, width, height),
            )
        )
    return tuple(segments)
