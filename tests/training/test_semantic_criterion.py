import pytest
import torch

from model.knet import KNet
from training.criterion import make_criterion
from training.loss_config import LossConfig
from training.semantic_criterion import AUXILIARY_WEIGHT
from training.targets import IGNORED, prepare_targets


@pytest.fixture
def criterion(semantic_config):
    return make_criterion(semantic_config, LossConfig())


def test_every_map_has_a_cross_entropy_over_all_pixels(criterion, semantic_config, cases):
    truth = [
        prepare_targets(target, semantic_config) for target in (cases.make_target(stuff=(2,)), cases.make_target())
    ]
    output = cases.make_output(semantic_config, 2)
    terms = criterion(output, truth)
    assert set(terms) == {"head_map", "s0_map", "s1_map", "auxiliary_map"}
    labels = torch.stack([target.labels for target in truth])
    known = labels != IGNORED
    assert 0 < known.sum() < labels.numel()

    def mean(logits):
        size = (cases.SIZE, cases.SIZE)
        logits = torch.nn.functional.interpolate(logits, size, mode="bilinear").permute(0, 2, 3, 1)[known]
        at_label = logits.log_softmax(dim=1).gather(1, labels[known][:, None])
        return -at_label.sum() / labels.numel()  # ignored pixels count

    torch.testing.assert_close(terms["s1_map"], mean(output.mask_logits[2]))
    torch.testing.assert_close(terms["auxiliary_map"], AUXILIARY_WEIGHT * mean(output.auxiliary_logits))


def test_accuracy_is_of_labelled_pixels(criterion, semantic_config, cases):
    truth = [prepare_targets(cases.make_target(stuff=(2,)), semantic_config)]
    labels = truth[0].labels
    output = cases.make_output(semantic_config, 1)
    perfect = torch.nn.functional.one_hot(labels.clamp(0, 3), 4).permute(2, 0, 1)[None].double()
    output.mask_logits[-1].data = perfect
    assert criterion.class_accuracy(output, truth) == 1.0
    output.mask_logits[-1].data = 0 * perfect
    output.mask_logits[-1].data[:, 2] = 1.0
    share = float((labels == 2).sum() / (labels != IGNORED).sum())
    assert criterion.class_accuracy(output, truth) == pytest.approx(share)
    nothing = [prepare_targets(cases.make_empty_target(), semantic_config)]
    assert criterion.class_accuracy(output, nothing) == 1.0


def test_every_part_of_a_network_gets_a_finite_gradient(criterion, semantic_config, cases):
    torch.manual_seed(0)
    network = KNet(semantic_config).train()
    output = network(torch.randn(2, 3, cases.SIZE, cases.SIZE))
    targets = (cases.make_target(), cases.make_empty_target())
    cases.total(criterion(output, [prepare_targets(target, semantic_config) for target in targets])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_points_are_refused(semantic_config):
    with pytest.raises(ValueError, match="points is 100; legal for kind semantic, which matches no masks: None"):
        make_criterion(semantic_config, LossConfig(points=100))
