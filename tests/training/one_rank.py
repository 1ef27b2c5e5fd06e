"""One of several processes that each compute the loss of their share of a batch, on gloo.

python one_rank.py CASES RANK NUM_RANKS OUT: CASES holds (model, loss, [output of each rank], [targets of each rank]).
"""

import sys
from pathlib import Path

import torch

from training.criterion import make_criterion


def leaves(output) -> list[torch.Tensor]:
    """What a loss has gradients for."""
    maps = (*output.mask_logits, *output.class_logits, output.seg_logits, output.heat_logits, output.auxiliary_logits)
    maps += (output.votes,)
    return [leaf for leaf in maps if leaf is not None]


def gradients(model, loss, output, targets) -> list[torch.Tensor]:
    """Of the total loss."""
    total = sum(make_criterion(model, loss)(output, targets).values())
    given = torch.autograd.grad(total, leaves(output), allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves(output), given, strict=True)]


def main() -> None:
    cases, rank, num_ranks, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    store = f"file://{cases.with_suffix('.store')}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=num_ranks)
    results = []
    for model, loss, outputs, targets in torch.load(cases, weights_only=False):
        results.append(gradients(model, loss, outputs[rank], targets[rank]))
    torch.save(results, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
