"""Single parts against the official code's, on stored inputs."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.official_names import expected_tensors
from model.kernel_update import AdaptiveKernelUpdate, KernelInteraction
from model.merge import make_candidates, merge
from model.neck import sine_encoding
from model.official import OFFICIAL
from training import losses
from training.matcher import MatcherConfig, cost_matrix

CONFIGURATION = "knet_s3_r50_fpn_1x_coco-panoptic"  # whose first stage's weights the parts have
# float64 on both sides, stored as such.
TOLERANCE = 1e-12
pytestmark = pytest.mark.golden("components")


def fill(module, rule, ours: str):
    """Weights by the rule of the official names of our module `ours`; returns the module in float64."""
    expected = expected_tensors(OFFICIAL[CONFIGURATION]())
    theirs = {one.ours.removeprefix(f"{ours}."): name for name, one in expected.items() if one.ours.startswith(ours)}
    state = {
        name: torch.from_numpy(rule.make_tensor(theirs[name], tensor.shape))
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.double().eval()


@pytest.fixture(autouse=True)
def _exact(differences):
    differences.tolerance = TOLERANCE


def as_tensors(arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def test_sine_encoding(arrays, differences):
    ours = sine_encoding(torch.zeros(arrays["posenc_4x6"].shape, dtype=torch.float64))
    differences.compare("posenc_4x6", ours, arrays["posenc_4x6"])
    differences.require()


def test_adaptive_update(arrays, official_weights, differences):
    module = fill(AdaptiveKernelUpdate(256), official_weights, "stages.0.adaptive_update")
    arguments = (arrays["updator_update_feature"], arrays["updator_input_feature"][:, :, 0])
    ours = module(*map(torch.from_numpy, arguments)).reshape(arrays["updator_out"].shape)
    differences.compare("updator_out", ours, arrays["updator_out"])
    differences.require()


def test_attention_and_ffn(arrays, official_weights, differences):
    module = fill(KernelInteraction(256, 8, 2048, reach=None), official_weights, "stages.0.interaction")
    kernels = torch.from_numpy(arrays["ffn_in"])[:, :, 0]
    differences.compare("ffn_out", (kernels + module.ffn(kernels))[:, :, None], arrays["ffn_out"])
    module.attention_norm = module.ffn = module.ffn_norm = torch.nn.Identity()
    kernels = torch.from_numpy(arrays["mha_in"]).transpose(0, 1)
    ours = module(kernels, None, None) / 2  # the FFN's place doubles its input
    differences.compare("mha_out", ours.transpose(0, 1), arrays["mha_out"])
    differences.require()


def test_costs(arrays, differences):
    given = as_tensors(arrays)
    arguments = (given["pred_logits"], given["cls_logits"], given["gt_masks"], given["gt_labels"].long())
    weights = {
        "cost_focal_w2": MatcherConfig(class_weight=2, mask_weight=0, dice_weight=0),
        "cost_mask_w1": MatcherConfig(class_weight=0, mask_weight=1, dice_weight=0),
        "cost_dice_w4": MatcherConfig(class_weight=0, mask_weight=0, dice_weight=4),
    }
    for name, config in weights.items():
        differences.compare(name, cost_matrix(*arguments, config), arrays[name])
    differences.require()


def test_losses(arrays, differences):
    given = as_tensors(arrays)
    masks, targets = given["pred_logits"][:3], given["gt_masks"]
    labels = F.one_hot(given["focal_labels"].long(), 81)[:, :80].double()
    focal = (losses.focal(given["cls_logits"], labels) * given["focal_weights"]).sum()
    owner = given["rank_target"].long()
    ours = {
        "loss_bce": losses.cross_entropy(masks, targets, by_area=False).mean(),
        "loss_dice_w4": 4 * losses.dice(masks, targets).mean(),
        "loss_focal_w2_avg3": 2 * focal / (3 + torch.finfo(torch.float32).eps),
        "loss_rank_w01": 0.1 * losses.rank(given["pred_logits"][None], owner.where(owner != 255, -1)).mean(),
    }
    for name, loss in ours.items():
        differences.compare_loss(name, float(loss), float(arrays[name]))
    differences.require()


def test_merge_of_153_discs(arrays, differences, tools):
    """Made by the rule of the references: discs as masks; sigmoid, to 224x224, cut to 214x205, to 161x150."""
    rng, n, size = np.random.Generator(np.random.PCG64(11)), 153, 56
    centre_y, centre_x = size * rng.random(n), size * rng.random(n)
    radius, class_logits = 1.5 + 5 * rng.random(n), -2 + 2 * rng.standard_normal((n, 133))
    y, x = np.mgrid[:size, :size]
    mask_logits = (radius[:, None, None] - np.hypot(y - centre_y[:, None, None], x - centre_x[:, None, None])) / 1.5
    sums = np.array([mask_logits.sum(), class_logits.sum()])
    differences.compare("merge_logits_check", sums, arrays["merge_logits_check"])

    probs = F.interpolate(torch.from_numpy(mask_logits)[None].sigmoid(), (224, 224), mode="bilinear")
    probs = F.interpolate(probs[:, :, :214, :205], (161, 150), mode="bilinear")
    class_probs = torch.from_numpy(class_logits).sigmoid()
    thing_score, thing_class = class_probs[:100, :80].max(dim=1)
    scores = torch.cat((thing_score, class_probs[100:, 80:].diagonal()))
    class_index = torch.cat((thing_class, torch.arange(80, 133)))
    differences.compare("merge_scores", scores, arrays["merge_scores"])
    differences.compare("merge_labels", class_index.int(), arrays["merge_labels"])
    for name in arrays:
        if thresholds := re.fullmatch(r"merge_pan_thr([\d.]+)_ov([\d.]+)", name):
            score, overlap = (torch.tensor([float(value)], dtype=torch.float64) for value in thresholds.groups())
            merged = merge(probs, make_candidates(scores[None], torch.arange(n) >= 100, score, "official"), overlap)
            ours = tools.official_map(merged.id_map[0], merged.segment_id[0], class_index)
            differences.compare(name, ours, arrays[name])
    differences.require()
