"""A K-Net with everything around it that is served: pixels in, results out. Export makes these modules the graphs."""

from model.instance import InstanceModel
from model.knet import KNet
from model.panoptic import PanopticModel
from model.semantic import SemanticModel

ServedModel = PanopticModel | InstanceModel | SemanticModel


def make_served(network: KNet, *, confidence: bool = False) -> ServedModel:
    """The module of the network's kind, in evaluation mode.

    Args:
        confidence: of kind semantic: with the probability of each pixel's class.

    Raises:
        ValueError: a confidence of another kind.
    """
    kind = network.config.kind
    if kind == "semantic":
        return SemanticModel(network, confidence=confidence).eval()
    if confidence:
        raise ValueError(f"confidence is an output of kind semantic, not of {kind}: its segments have scores")
    return (PanopticModel if kind == "panoptic" else InstanceModel)(network).eval()
