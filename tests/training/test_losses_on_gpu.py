import dataclasses

import pytest
import torch

from training.criterion import make_criterion
from training.loss_config import LossConfig
from training.recipes import SEEDED_LOSS
from training.targets import prepare_targets

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

LOSSES = {"paper": LossConfig(), "small_objects": SEEDED_LOSS}


def on_gpu(output):
    def moved(value):
        if isinstance(value, tuple):
            return tuple(moved(each) for each in value)
        return None if value is None else value.detach().cuda().requires_grad_(value.is_floating_point())

    return dataclasses.replace(output, **{name: moved(value) for name, value in vars(output).items()})


@pytest.mark.parametrize("points", [None, 500])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("kind", ["learned", "seeded", "instance", "semantic"])
def test_losses_and_gradients_are_those_of_the_cpu(kind, loss, points, cases, request):
    model = request.getfixturevalue(f"{kind}_config")
    if kind == "semantic" and points is not None:
        pytest.skip("it has no points")
    targets = [cases.make_target(), cases.make_empty_target()]
    criterion = make_criterion(model, dataclasses.replace(loss, points=points))
    results = []
    for device in ("cpu", "cuda"):
        output = cases.make_output(model, 2)
        output = output if device == "cpu" else on_gpu(output)
        truth = [prepare_targets(target, model, device, torch.float64) for target in targets]
        terms = criterion(output, truth, torch.Generator().manual_seed(0))  # of the CPU: the same points
        cases.total(terms).backward()
        gradients = [
            logits.grad.cpu() for logits in (*output.mask_logits, output.seg_logits) if logits.grad is not None
        ]
        results.append(({name: term.detach().cpu() for name, term in terms.items()}, gradients))
        assert all(term.device.type == device for term in terms.values())
        assert 0 <= criterion.class_accuracy(output, truth) <= 1
    torch.testing.assert_close(results[1], results[0])
