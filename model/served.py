"""A K-Net with everything around it that is served: pixels in, results out. Export makes these modules the graphs."""

from model.config import Kind
from model.instance import InstanceModel
from model.knet import KNet
from model.panoptic import PanopticModel
from model.semantic import SemanticModel

ServedModel = PanopticModel | InstanceModel | SemanticModel


def make_served(network: KNet) -> ServedModel:
    """The module of the network's kind, in evaluation mode."""
    kinds: dict[Kind, type[ServedModel]] = {
        "panoptic": PanopticModel,
        "instance": InstanceModel,
        "semantic": SemanticModel,
    }
    return kinds[network.config.kind](network).eval()
