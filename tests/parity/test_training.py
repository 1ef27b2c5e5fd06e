"""Losses, assignments and gradients of one training step against the official code's."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from export.official_names import expected_tensors
from training.criterion import Criterion
from training.dataset import Target
from training.loss_config import LossConfig
from training.matcher import cost_matrix
from training.semantic_criterion import semantic_terms
from training.targets import IGNORED, paint, prepare_targets

SIZE = 128
# Ours -> theirs, at the kernel head and at a stage.
HEAD_TERMS = {"mask": "loss_rpn_mask", "dice": "loss_rpn_dice", "rank": "loss_rpn_rank", "seg": "loss_rpn_seg"}
STAGE_TERMS = {"class": "loss_cls", "mask": "loss_mask", "dice": "loss_dice", "rank": "loss_rank"}


@pytest.fixture(scope="module")
def official_targets(parity_folder, load_module):
    return load_module(parity_folder / "targets.py")


def case_images(case: str) -> list[int]:
    """Images of targets.py that a case trains on: bN, the first N; bN_nothing, those without things."""
    known = re.fullmatch(r"b(\d+)(_nothing|_nostuff)?", case)
    if known is None:
        pytest.fail(f"no rule for the training case {case!r}; legal: bN, bN_nothing, bN_nostuff")
    batch = int(known[1])
    return [2] * batch if case.endswith("_nothing") else list(range(batch))


def make_target(rule, image: int, num_things: int, with_stuff: bool) -> Target:
    """One image's things, then its stuff classes, padded with nothing."""
    masks, labels, sem = rule.image_targets(image)
    height, width = masks.shape[1:]
    things = np.zeros((len(masks), SIZE, SIZE), bool)
    things[:, :height, :width] = masks > 0
    classes = [c for c in np.unique(sem[0]) if num_things <= c < 255] if with_stuff else []
    stuff = [sem[0] == c for c in classes]
    return Target(
        masks=torch.from_numpy(np.concatenate([things, np.array(stuff, bool).reshape(-1, SIZE, SIZE)])),
        class_index=torch.tensor([*labels.tolist(), *map(int, classes)], dtype=torch.int64),
        crowd_masks=torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
        crowd_class=torch.zeros(0, dtype=torch.int64),
        valid_size=(height, width),
        pixel_mean=0.0,
        pixel_std=1.0,
        path=Path("synthetic"),
    )


@pytest.mark.golden("detection step")
def test_a_detection_step_is_the_official_one(golden, network, official_weights, official_targets, differences):
    config = network.config
    images = case_images(golden.case)
    is_panoptic = config.kind == "panoptic"
    targets = [
        make_target(
            official_targets, image, config.num_things, is_panoptic and not (golden.case.endswith("_nostuff") and i)
        )
        for i, image in enumerate(images)
    ]
    truth = [prepare_targets(target, config, dtype=torch.float64) for target in targets]
    pixels = torch.from_numpy(official_weights.make_image(SIZE, SIZE, len(images))).double()
    output = network.train()(pixels)
    criterion = Criterion(config, LossConfig())
    terms = criterion(output, truth)
    expected = json.loads(golden.path.read_text())

    compare_losses(differences, rename_detection(terms, expected["losses"]), expected["losses"])
    matches = stage_matches(criterion, output, truth)
    compare_assignments(differences, matches, expected["matched_query_to_gt"])
    arrays_path = golden.path.with_suffix(".npz")
    if arrays_path.exists():
        with np.load(arrays_path) as file:
            compare_targets(differences, file, matches, truth, config)
    torch.stack(list(terms.values())).sum().backward()
    compare_gradients(differences, network, golden.path.with_name(f"{golden.path.stem}__grads.tsv"))
    differences.require()


def rename_detection(terms, expected) -> dict[str, float]:
    """Our terms under the official names; the kernel head's rank term has another where nothing is matched."""
    renamed = {}
    for name, value in terms.items():
        part, term = name.split("_")
        theirs = HEAD_TERMS[term] if part == "head" else f"{part}_{STAGE_TERMS[term]}"
        if theirs == "loss_rpn_rank" and theirs not in expected:
            theirs = "loss_rank"
        renamed[theirs] = float(value.detach())
    return renamed


def compare_losses(differences, ours: dict[str, float], expected: dict[str, float]) -> None:
    if "total" in expected:
        ours = ours | {"total": sum(ours.values())}
    for name, value in expected.items():
        if "loss" in name or name == "total":
            if name in ours:
                differences.compare_loss(name, ours[name], value)
            elif value:
                differences.fail(name, "we have no such loss")
    for name in sorted(set(ours) - set(expected)):
        differences.fail(name, "they have no such loss")


def stage_matches(criterion, output, truth) -> dict[str, list]:
    """Where it is used -> for each image its costs and the pairs that the criterion made."""
    config, matcher = criterion.model, criterion.config.matcher
    assignments = criterion.assign(output, truth)
    results = {}
    for stage, assignment in enumerate(assignments):
        results[f"s{stage}"] = []
        for i, (pair, target) in enumerate(zip(assignment, truth, strict=True)):
            masks = output.mask_logits[stage][i, : config.num_kernels]
            classes = output.class_logits[stage - 1][i, : config.num_kernels, : config.num_things] if stage else None
            cost = cost_matrix(masks, classes, target.thing_masks, target.thing_class, matcher)
            results[f"s{stage}"].append((cost, pair))
    return {"rpn": results["s0"]} | results


def compare_assignments(differences, matches, expected) -> None:
    for where, pairs in expected.items():
        part, image = where.split("_img")
        pair = matches[part][int(image)][1]
        ours = {str(k): int(t) for k, t in zip(pair.kernel.tolist(), pair.target.tolist(), strict=True)}
        if ours == {k: int(v) for k, v in pairs.items()}:
            differences.compare(f"assignment {where}", np.zeros(1, int), np.zeros(1, int))
        else:
            differences.fail(f"assignment {where}", f"{ours}, not {pairs}")


def compare_targets(differences, arrays, matches, truth, config) -> None:
    """Costs and assignments of every image, and what is made of them."""
    ours = {}
    for part, images in matches.items():
        labels, label_weights, masks = [], [], []
        for i, (cost, pair) in enumerate(images):
            gt_inds = torch.zeros(config.num_kernels, dtype=torch.int32)
            gt_inds[pair.kernel] = pair.target.int() + 1
            assigned = torch.full((config.num_kernels,), -1, dtype=torch.int32)
            assigned[pair.kernel] = truth[i].thing_class[pair.target].int()
            ours |= {f"{part}_img{i}_cost": cost, f"{part}_img{i}_gt_inds": gt_inds, f"{part}_img{i}_labels": assigned}

            num_kernels = config.num_kernels if part == "rpn" else config.num_slots
            label = torch.full((num_kernels,), config.num_classes, dtype=torch.int32)
            mask = torch.zeros(num_kernels, *truth[i].thing_masks.shape[1:], dtype=torch.float64)
            label[pair.kernel] = truth[i].thing_class[pair.target].int()
            mask[pair.kernel] = truth[i].thing_masks[pair.target]
            if part != "rpn":
                stuff = config.num_kernels + truth[i].stuff_index
                label[stuff] = (config.num_things + truth[i].stuff_index).int()
                mask[stuff] = truth[i].stuff_masks
            weight = torch.ones(num_kernels)
            weight[: config.num_kernels] = config.num_things
            labels.append(label), label_weights.append(weight), masks.append(mask)
        masks = torch.cat(masks)
        ours[f"target_{part}_labels"] = torch.cat(labels)
        if part == "rpn":
            ours |= {"target_rpn_mask_targets": masks, "target_rpn_seg_targets": seg_targets(images, truth, config)}
        else:
            ours |= {
                f"target_{part}_label_weights_sum": torch.cat(label_weights),
                f"target_{part}_mask_targets_sum": masks.sum(dim=(1, 2)),
            }
    for name in arrays:
        if name not in ours:
            differences.fail(name, "the test knows no such array")
        else:
            differences.compare(name, ours[name], arrays[name])


def seg_targets(images, truth, config) -> torch.Tensor:
    maps = []
    for (_, pair), target in zip(images, truth, strict=True):
        masks = torch.cat((target.stuff_masks, target.thing_masks[pair.target]))
        classes = torch.cat((target.stuff_index + config.num_things, target.thing_class[pair.target]))
        maps.append(paint(masks, classes, fill=config.num_classes))
    return torch.stack(maps).int()


def compare_gradients(differences, network, path) -> None:
    """L2 norm and sum of every parameter's gradient, and which parameters have none."""
    if not path.exists():
        differences.compare("gradients: none given", np.zeros(0), np.zeros(0))
        return
    official = expected_tensors(network.config)
    ours = dict(network.named_parameters())
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    largest = max(float(row["grad_l2"]) for row in rows if row["grad_l2"])
    worst = {"gradient norms": 0.0, "gradient sums": 0.0}
    for row in rows:
        parameter = ours.pop(official[row["name"]].ours)
        if parameter.requires_grad != (row["requires_grad"] == "1"):
            differences.fail(row["name"], f"requires_grad is {parameter.requires_grad}")
        if not parameter.requires_grad:
            continue
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm, total = float(gradient.norm()), float(gradient.sum())
        golden_norm, golden_total = float(row["grad_l2"] or 0), float(row["grad_sum"] or 0)
        errors = {
            "gradient norms": abs(norm - golden_norm) / max(abs(norm), 1e-6 * largest),
            "gradient sums": abs(total - golden_total) / max(norm * parameter.numel() ** 0.5, 1e-6 * largest),
        }
        for what, error in errors.items():
            worst[what] = max(worst[what], error)
            if error > 1e-6:
                differences.fail(f"{what} of {row['name']}", f"{error:.1e}")
    if ours:
        differences.fail("gradients", f"they have none of {sorted(ours)[:3]}")
    for what, error in worst.items():
        differences.compare(what, np.array([error]), np.zeros(1), scale=1.0)


@pytest.mark.golden("semantic step")
def test_a_semantic_step_is_the_official_one(golden, network, official_weights, official_targets, differences):
    expected = json.loads(golden.path.read_text())
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        terms = semantic_step(network, 1, official_weights, official_targets)
    losses = expected["eval_mode_bn_no_dropout"]["float64"]
    differences.case = "running statistics"
    compare_losses(differences, rename_semantic(terms), losses)

    terms = semantic_step(network.train(), 2, official_weights, official_targets)
    differences.case = "batch statistics"
    compare_losses(differences, rename_semantic(terms), expected["train_mode_bn_dropout0_batch2"]["float64"])
    torch.stack(list(terms.values())).sum().backward()
    compare_gradients(differences, network, golden.path.with_name(f"{golden.path.stem}__grads.tsv"))
    differences.require()


def semantic_step(network, batch: int, weights, targets) -> dict:
    config = network.config
    labels = torch.from_numpy(targets.seg_label(SIZE, SIZE, config.num_classes, batch))[:, 0]
    labels = labels.masked_fill(labels == 255, IGNORED)  # which is void in the official code
    output = network(torch.from_numpy(weights.make_image(SIZE, SIZE, batch)).double())
    return semantic_terms(output, labels)


def rename_semantic(terms) -> dict[str, float]:
    names = {"head_map": "decode.loss_ce.s0", "auxiliary_map": "aux.loss_ce"}
    names |= {f"s{stage}_map": f"decode.loss_ce.s{stage + 1}" for stage in range(3)}
    return {names[name]: float(value.detach()) for name, value in terms.items()}
