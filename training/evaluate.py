"""Run a network over a data set through the very path that serves: geometry, graph, tiles, segments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from rich.progress import track

from model.config import Category, KNetConfig
from model.knet import KNet
from model.panoptic import PanopticModel
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
        self.model = PanopticModel(network, network.config.output_stride).eval()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once."""
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in output._asdict().items()}


def metadata_of(config: KNetConfig, *, name: str = "checkpoint", version: str = "0") -> ArtifactMetadata:
    """What a server must know of a network; the artifact's files are added by export."""
    if config.geometry == "tile":
        geometry = Geometry(mode="tile", sizes=config.canvas_sizes, overlap=config.tile_overlap)
    else:
        height, width = config.canvas_sizes
        geometry = Geometry(mode="fit", size=(height, width))
    return ArtifactMetadata(
        name=name,
        version=version,
        kind="panoptic",
        categories=tuple(
            ServedCategory(id=c.id, name=c.name, is_thing=c.is_thing, colour=c.colour) for c in config.categories
        ),
        geometry=geometry,
        output_stride=cast(Literal[1, 2, 4], config.output_stride),
        num_slots=config.num_kernels + config.num_stuff,
        uses_image_statistics=config.normalisation == "image",
        thresholds=Thresholds(score=config.score_threshold, overlap=config.overlap_threshold),
    )


def segmenter_of(network: KNet) -> Segmenter:
    """The serving path around a network."""
    return Segmenter(metadata_of(network.config), TorchSession(network.eval()))


def predict_by(segmenter: Segmenter) -> Predict:
    """File content -> segments, by the serving path in this process."""
    return lambda content: segmenter.segment(decode(content))


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
