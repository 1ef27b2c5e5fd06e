"""A network behind the very path that serves: geometry, graph, tiles, segments."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray

from model.config import KNetConfig
from model.knet import KNet
from model.served import make_served
from service.artifact import ArtifactMetadata, Category, Geometry, Thresholds
from service.segmenter import Segmenter


class TorchSession:
    """A network behind the interface of the serving runtimes (service.session.Session), on the network's device."""

    def __init__(self, network: KNet, *, confidence: bool = False) -> None:
        self.model = make_served(network, confidence=confidence)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once."""
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(array).to(device) for name, array in inputs.items()})
        return {name: tensor.cpu().numpy() for name, tensor in output._asdict().items()}


def metadata_of(
    config: KNetConfig, *, name: str = "checkpoint", version: str = "0", confidence: bool = False
) -> ArtifactMetadata:
    """What a server must know of a network; the artifact's files are added by export.

    `confidence` as in `make_served`.
    """
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
            Category(id=c.id, name=c.name, is_thing=c.is_thing, colour=c.colour) for c in config.categories
        ),
        geometry=geometry,
        output_stride=cast(Literal[1, 2, 4, 8], config.output_stride),
        mask_upsample=cast(Literal[1, 2, 4], config.mask_upsample if config.kind == "instance" else 1),
        merge=config.merge,
        mask_quality=config.mask_quality,
        confidence=confidence,
        num_slots=config.num_slots,
        uses_image_statistics=config.normalisation == "image",
        thresholds=Thresholds(score=config.score_threshold, overlap=config.overlap_threshold, min_area=config.min_area),
    )


def segmenter_of(network: KNet, *, confidence: bool = False) -> Segmenter:
    """The serving path around a network, which is left in evaluation mode; `confidence` as in `make_served`."""
    metadata = metadata_of(network.config, confidence=confidence)
    return Segmenter(metadata, TorchSession(network.eval(), confidence=confidence))
