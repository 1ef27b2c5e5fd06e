import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.across_ranks import across_ranks
from training.loss_config import LossConfig
from training.recipes import SEEDED_LOSS
from training.targets import prepare_targets

NUM_RANKS = 2
PAPER = LossConfig()


def test_one_process_counts_what_it_has():
    assert across_ranks(torch.tensor(7)).item() == 7
    assert across_ranks(torch.tensor(0.0)).item() == 1


def image_of(output, i):
    """What a process has that sees image i alone."""

    def part(value):
        if isinstance(value, tuple):
            return tuple(part(each) for each in value)
        return None if value is None else value[i : i + 1].detach().requires_grad_(value.is_floating_point())

    return dataclasses.replace(output, **{name: part(value) for name, value in vars(output).items()})


@pytest.fixture(scope="module")
def one_rank(load_module):
    return load_module(Path(__file__).with_name("one_rank.py"))


def make_cases(cases, learned_config, seeded_config, instance_config, semantic_config):
    """Batches of two images, unlike in what they show, for each kind of network and loss."""
    crowded = cases.make_target(((0, 0, 16, 32), (32, 16, 48, 48), (48, 48, 64, 64)), (0, 1, 0))
    other = cases.make_target(((16, 16, 32, 32),), (1,), stuff=(3,))
    no_stuff, nothing = cases.make_target(stuff=()), cases.make_empty_target()
    batches = {
        "unlike": (crowded, other),
        "nothing in one image": (crowded, nothing),
        "nothing at all": (nothing, nothing),
        "no stuff in one image": (no_stuff, crowded),
    }
    kinds = {
        "paper": (learned_config, PAPER),
        "small objects": (seeded_config, SEEDED_LOSS),
        "instance": (instance_config, PAPER),
        "semantic": (semantic_config, PAPER),
    }
    for kind, (model, loss) in kinds.items():
        for batch, targets in batches.items():
            truth = [prepare_targets(target, model, dtype=torch.float64) for target in targets]
            yield f"{kind}, {batch}", (model, loss, cases.make_output(model, NUM_RANKS), truth)


def test_averaged_gradients_of_two_processes_are_those_of_one(
    cases, one_rank, tmp_path, learned_config, seeded_config, instance_config, semantic_config
):
    """What distributed training computes, without the network: it averages the ranks' gradients."""
    named = dict(make_cases(cases, learned_config, seeded_config, instance_config, semantic_config))
    shares = [
        (model, loss, [image_of(output, i) for i in range(NUM_RANKS)], [[target] for target in truth])
        for model, loss, output, truth in named.values()
    ]
    torch.save(shares, tmp_path / "cases.pt")
    command = [sys.executable, one_rank.__file__, str(tmp_path / "cases.pt")]
    root = str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(NUM_RANKS), str(tmp_path / f"{rank}.pt")],
            env=os.environ | {"PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(NUM_RANKS)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * NUM_RANKS
    finally:
        for process in processes:
            process.kill()
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(NUM_RANKS)]
    for number, (name, (model, loss, output, truth)) in enumerate(named.items()):
        expected = one_rank.gradients(model, loss, output, truth)
        ours = [torch.cat(images) / NUM_RANKS for images in zip(*(rank[number] for rank in ranks), strict=True)]
        assert len(ours) == len(expected) > 0
        for one, other in zip(ours, expected, strict=True):
            # float64, but for a 1.2e-7 that the paper's code adds to a count, here to half of it.
            torch.testing.assert_close(one, other, rtol=2e-7, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
