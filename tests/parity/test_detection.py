"""Panoptic and instance K-Nets against the official code's forward pass and results."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.instance import best_instances, instance_scores
from model.knet import enlarge
from model.merge import make_candidates, merge
from model.panoptic import classify
from model.served import make_served
from service import rle
from service.geometry import Plan, Tile
from service.instances import read_instances

MASK_STRIDE = 4  # of the official configurations


@pytest.mark.golden("detection")
def test_every_part_is_the_official_one(golden, network, arrays, official_weights, differences, tools):
    seen = tools.capture(network, tools.make_input(official_weights, golden.case))
    head, output = seen["head"], seen["output"]
    ours = {
        "backbone_stats": tools.stats(seen["backbone"]),
        "fpn_stats": tools.stats(seen["fpn"]),
        "semantic_fpn_stats": tools.stats(seen["neck"]),
        "loc_feat_crop": seen["neck"][0][:, :8],
        "seg_feat_crop": seen["neck"][1][:, :8],
        "x_feats_stats": tools.stats([head.features]),
        "x_feats_crop": head.features[:, :8],
        "init_mask_preds": head.kernels.mask_logits,
        "seg_preds": head.seg_logits,
        "init_proposal_feats": tools.as_official(head.kernels.weights),
    }
    inputs = [head.kernels.mask_logits]
    for i in range(len(network.stages)):
        kernels, class_logits = seen[f"s{i}"]
        inputs.append(kernels.mask_logits)
        ours |= {
            f"s{i}_cls_score": class_logits,
            f"s{i}_mask_preds": kernels.mask_logits,
            f"s{i}_object_feats": tools.as_official(kernels.weights),
        }
    ours["mask_margins"] = np.array([margins(logits) for logits in inputs[:-1]])
    result = panoptic_arrays if network.config.kind == "panoptic" else instance_arrays
    ours |= result(network.config, output, arrays, tools)
    for name, expected in arrays.items():
        if name.endswith("_shapes"):
            continue
        if name not in ours:
            differences.fail(name, "the test knows no such array")
        elif name == "mask_margins":
            # A column at a time: distance to zero, two counts, a share and a deviation.
            for column, what in enumerate(("min", "below 1e-4", "below 1e-5", "share", "std")):
                differences.compare(f"{name} {what}", ours[name][:, column], expected[:, column], scale=1.0)
        else:
            differences.compare(name, ours[name], expected)
    differences.require()


def margins(logits: torch.Tensor) -> list[float]:
    """How near the hard masks' threshold the logits come."""
    distance = logits.abs()
    counts = [float((distance < limit).sum()) for limit in (1e-4, 1e-5)]
    return [float(distance.min()), *counts, float((logits > 0).double().mean()), float(logits.std())]


def enlarged(output, shapes=None) -> torch.Tensor:
    """Mask probabilities as the official code enlarges them: to the padded input, cut, to the original size."""
    probs = enlarge(output.mask_logits[-1].sigmoid(), MASK_STRIDE, None, outside=0.0)
    if shapes is None:
        return probs
    (height, width, _), (original_height, original_width, _) = shapes.tolist()
    cut = probs[..., :height, :width]
    return F.interpolate(cut, (original_height, original_width), mode="bilinear", align_corners=False)


def panoptic_arrays(config, output, arrays, tools) -> dict:
    class_index, score, is_stuff = classify(config, output)
    probs = enlarged(output)

    def official_map(probs, score_threshold: float, overlap_threshold: float) -> np.ndarray:
        least, overlap = (torch.tensor([value], dtype=torch.float64) for value in (score_threshold, overlap_threshold))
        merged = merge(probs, make_candidates(score, is_stuff, least, config.merge), overlap)
        return tools.official_map(merged.id_map[0], merged.segment_id[0], class_index[0])

    result = {
        "pan_official": official_map(probs, config.score_threshold, config.overlap_threshold),
        "pan_relaxed": official_map(probs, 0.95, 0.03),
        "pan_scores": score[0],
        "pan_labels": class_index[0].int(),
        "pan_prob_stats": tools.stats([probs]),
    }
    if "pan_padded_shapes" in arrays:
        result["pan_padded_relaxed"] = official_map(enlarged(output, arrays["pan_padded_shapes"]), 0.95, 0.03)
    return result


def instance_arrays(config, output, arrays, tools) -> dict:
    scores, labels, kernels = (
        x[0] for x in best_instances(instance_scores(output, rescore=False), config.max_instances)
    )
    result = {}
    sizes = {"ins": None}
    if "ins_padded_shapes" in arrays:
        sizes["ins_padded"] = arrays["ins_padded_shapes"]
    for prefix, shapes in sizes.items():
        masks = enlarged(output, shapes)[0][kernels] > 0.5
        result |= {
            f"{prefix}_scores": scores,
            f"{prefix}_labels": labels.int(),
            f"{prefix}_mask_area": masks.sum(dim=(1, 2)).int(),
            f"{prefix}_masks_packed": np.packbits(masks.numpy(), axis=-1),
        }
    return result


@pytest.mark.golden("instance")
def test_the_server_makes_the_official_masks(golden, network, arrays, official_weights, differences, tools):
    """The host's step from mask logits to masks, in float32, at the padded and at the plain size."""
    image = tools.make_input(official_weights, golden.case)
    config, size = network.config, tuple(image.shape[-2:])
    with torch.no_grad():
        output = network(image)
    score, class_index, kernel = best_instances(instance_scores(output, rescore=False), config.max_instances)
    outputs = {"score": score, "class_index": class_index, "mask_index": kernel}
    outputs = {name: value[0].numpy() for name, value in outputs.items()}
    outputs["mask_logits"] = output.feature_mask_logits[0].float().numpy()
    sizes = {"ins": (size, size)}
    if "ins_padded_shapes" in arrays:
        sizes["ins_padded"] = [tuple(row[:2]) for row in arrays["ins_padded_shapes"].tolist()]
    for prefix, (content, original) in sizes.items():
        tile = Tile(top=0, left=0, height=content[0], width=content[1])
        plan = Plan(
            image_size=original,
            scaled_size=content,
            canvas_size=size,
            stride=config.output_stride,
            num_rows=1,
            num_columns=1,
            tiles=(tile,),
        )
        found = read_instances(outputs, plan, mask_upsample=config.mask_upsample, score_threshold=0.0)
        ours = np.array([rle.decode(counts, original) for counts in found.counts])
        expected = np.unpackbits(arrays[f"{prefix}_masks_packed"], axis=-1, count=original[1]).astype(bool)
        expected = expected[expected.any(axis=(1, 2))]
        # float32 against float64: a pixel whose probability is 0.5 but for rounding.
        differences.compare_pixels(f"{prefix}_masks of the server", ours, expected, allowed=1e-5)
    differences.require()


@pytest.mark.golden("panoptic")
def test_the_graph_makes_the_official_map(golden, network, arrays, official_weights, differences, tools):
    """The module that is exported, in float32, at the size of its input."""
    inputs = tools.graph_inputs(tools.make_input(official_weights, golden.case))
    inputs |= {"score_threshold": torch.tensor([0.95]), "overlap_threshold": torch.tensor([0.03])}
    with torch.no_grad():
        output = make_served(network.float())(**inputs)
    ours = tools.official_map(output.id_map[0], output.segment_id[0], output.class_index[0])
    # float32 against float64: a mask logit next to 0 may move everything after it (R101 of the references: 9 pixels).
    differences.compare_pixels("pan_relaxed of the graph", ours, arrays["pan_relaxed"], allowed=1e-3)
    differences.require()
