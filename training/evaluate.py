"""Run a network over a data set through the very path that serves: geometry, graph, tiles, segments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from rich.progress import track

from model.config import Category, KNetConfig
from model.knet import KNet
from model.served import make_served
from service.artifact import ArtifactMetadata, Geometry, Thresholds
from service.artifact import Category as ServedCategory
from service.image import decode
from service.segmenter import Segmenter
from service.segments import Segmentation
from training.dataset import read_id_map
from training.formats import Record
from training.metrics import Evaluation

Predict = Callable[[bytes], Segmentation]


class TorchSession:
    """A network behind the interface of the serving runtimes (service.session.Session)."""

    def __init__(self, network: KNet) -> None:
        self.model = make_served(network)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once."""
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in output._asdict().items()}


def metadata_of(config: KNetConfig, *, name: str = "checkpoint", version: str = "0") -> ArtifactMetadata:
    """What a server must know of a network; the artifact's files are added by export."""
    sizes = config.canvas_sizes
    if config.geometry == "tile":
        geometry = Geometry(mode="tile", sizes=sizes, overlap=config.tile_overlap)
    elif config.geometry == "shortest_edge":
        geometry = Geometry(mode="shortest_edge", shortest=sizes[0], longest=sizes[1], multiple=config.size_multiple)
    else:
        geometry = Geometry(mode="fit", size=(sizes[0], sizes[1]))
    return ArtifactMetadata(
        name=name,
        version=version,
        kind=config.kind,
        categories=tuple(
            ServedCategory(id=c.id, name=c.name, is_thing=c.is_thing, colour=c.colour) for c in config.categories
        ),
        geometry=geometry,
        output_stride=cast(Literal[1, 2, 4, 8], config.output_stride),
        mask_upsample=cast(Literal[1, 2, 4], config.mask_upsample if config.kind == "instance" else 1),
        merge=config.merge,
        mask_quality=config.mask_quality,
        num_slots=config.num_slots,
        uses_image_statistics=config.normalisation == "image",
        thresholds=Thresholds(score=config.score_threshold, overlap=config.overlap_threshold),
    )


def segmenter_of(network: KNet) -> Segmenter:
    """The serving path around a network."""
    return Segmenter(metadata_of(network.config), TorchSession(network.eval()))


def predict_by(segmenter: Segmenter) -> Predict:
    """File content -> segments, by the serving path in this process.

    Raises:
        ValueError: the model is of kind instance; the scores here are those of maps with one segment a pixel.
    """
    if segmenter.metadata.kind == "instance":
        raise ValueError(f"{segmenter.metadata.name} is of kind instance; legal to evaluate: panoptic, semantic")

    def predict(content: bytes) -> Segmentation:
        result = segmenter.segment(decode(content))
        assert isinstance(result, Segmentation)
        return result

    return predict


def evaluate(
    predict: Predict, categories: Sequence[Category], records: Sequence[Record], *, show_progress: bool = True
) -> Evaluation:
    """Segment every image and compare with its annotation.

    Args:
        predict: content of an image file -> its segments; class indices count along `categories`.
        categories: of the data set, things first.
        records: the annotated images.
    """
    evaluation = Evaluation(categories)
    for record in track(records, description="evaluating", disable=not show_progress):
        predicted = predict(record.image_path.read_bytes())
        true_id_map = read_id_map(record.png_path)
        evaluation.add(predicted.id_map, predicted.segments, true_id_map, record.segments, group=record.group)
    return evaluation
