"""Semantic K-Nets against the official code's forward pass and results."""

import pytest
import torch
import torch.nn.functional as F

from model.served import make_served


@pytest.mark.golden("semantic")
def test_every_part_is_the_official_one(golden, network, arrays, official_weights, differences, tools):
    image = tools.make_input(official_weights, golden.case)
    seen = tools.capture(network, image)
    head = seen["head"]
    with torch.no_grad():
        auxiliary = network.auxiliary(seen["backbone"][-2])
    logits = [head.seg_logits, *(seen[f"s{i}"][0].mask_logits for i in range(len(network.stages)))]
    kernels = [head.kernels.weights, *(seen[f"s{i}"][0].weights for i in range(len(network.stages)))]
    ours = {
        "backbone_stats": tools.stats(seen["backbone"]),
        "backbone_shapes": torch.tensor([x.shape for x in seen["backbone"]]),
        "feats_stats": tools.stats([head.features]),
        "feats_crop": head.features[:, :8],
        "softmax_peak": torch.stack([x.softmax(dim=1).amax(dim=1).mean() for x in logits]),
        "aux_logits_stats": tools.stats([auxiliary]),
        "aux_logits_crop": auxiliary[:, :8],
        "argmax": class_map(logits[-1], image.shape[-2:]),
    }
    if "padded_shapes" in arrays:
        ours["argmax_padded"] = class_map(logits[-1], image.shape[-2:], arrays["padded_shapes"])
    for name, x, y in zip(("init", *(f"s{i}" for i in range(len(network.stages)))), logits, kernels, strict=True):
        ours |= {f"{name}_logits": x, f"{name}_kernels": tools.as_official(y)}
    for name, expected in arrays.items():
        if name == "padded_shapes":
            continue
        if name not in ours:
            differences.fail(name, "the test knows no such array")
        else:
            differences.compare(name, ours[name], expected)
    differences.require()


def class_map(logits: torch.Tensor, input_size, shapes=None) -> torch.Tensor:
    """The class of each pixel as the official code finds it: logits to the input, cut, to the original size."""
    logits = F.interpolate(logits, tuple(input_size), mode="bilinear", align_corners=False)
    if shapes is not None:
        (height, width, _), (original_height, original_width, _) = shapes.tolist()
        logits = logits[..., :height, :width]
        logits = F.interpolate(logits, (original_height, original_width), mode="bilinear", align_corners=False)
    return logits.softmax(dim=1).argmax(dim=1)[0].int()


@pytest.mark.golden("semantic")
def test_the_graph_makes_the_official_map(golden, network, arrays, official_weights, differences, tools):
    """The module that is exported, in float32, at the size of its input."""
    if "argmax" not in arrays:
        pytest.skip("the file holds no class map")
    with torch.no_grad():
        output = make_served(network.float())(**tools.graph_inputs(tools.make_input(official_weights, golden.case)))
    differences.compare_pixels("argmax of the graph", output.class_map[0].numpy(), arrays["argmax"], allowed=1e-3)
    differences.require()
