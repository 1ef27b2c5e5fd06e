"""A K-Net with everything around it that is served: pixels in, results out. Export makes these modules the graphs."""

from model.config import Kind
from model.instance import InstanceModel, InstanceOutput
from model.knet import KNet
from model.panoptic import PanopticModel, PanopticOutput
from model.semantic import SemanticModel, SemanticOutput

ServedModel = PanopticModel | InstanceModel | SemanticModel


def output_names(model: ServedModel) -> list[str]:
    """Names of the graph's outputs, in order."""
    if isinstance(model, PanopticModel):
        return list(PanopticOutput._fields)
    return list(InstanceOutput._fields if isinstance(model, InstanceModel) else SemanticOutput._fields)


def make_served(network: KNet) -> ServedModel:
    """The module of the network's kind, in evaluation mode."""
    kinds: dict[Kind, type[ServedModel]] = {
        "panoptic": PanopticModel,
        "instance": InstanceModel,
        "semantic": SemanticModel,
    }
    return kinds[network.config.kind](network).eval()
