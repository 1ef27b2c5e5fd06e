import dataclasses

import pytest
import torch

from model.knet import KNet
from training.criterion import Criterion
from training.loss_config import LossConfig
from training.recipes import SEEDED_LOSS
from training.targets import prepare_targets

PAPER = LossConfig()
BOTH = pytest.mark.parametrize("loss", [PAPER, SEEDED_LOSS], ids=["paper", "small_objects"])


def test_targets_are_split_into_things_and_stuff(cases, config):
    truth = prepare_targets(cases.make_target(), config)
    mask = cases.SIZE // config.mask_stride
    assert truth.thing_masks.shape == truth.stuff_masks.shape == (2, mask, mask)
    assert truth.thing_class.tolist() == [0, 1]
    assert truth.stuff_index.tolist() == [0, 1]
    assert (truth.thing_masks.sum(dim=0) + truth.stuff_masks.sum(dim=0) == 1).all()
    if config.first_kernels == "seeded":
        assert truth.heat.shape == truth.centres.shape == (cases.SIZE // 2, cases.SIZE // 2)
        assert truth.centres.sum() == 2


def test_terms_of_the_paper(cases, learned_config):
    terms = Criterion(learned_config, PAPER)(
        cases.make_output(learned_config, 2), cases.truths(learned_config, *[cases.make_target()] * 2)
    )
    stages = {f"s{s}_{term}" for s in range(2) for term in ("mask", "dice", "rank", "class")}
    assert set(terms) == {"head_mask", "head_dice", "head_rank", "head_seg"} | stages
    assert all(term.shape == () for term in terms.values())


def test_terms_for_small_objects(cases, seeded_config):
    terms = Criterion(seeded_config, SEEDED_LOSS)(
        cases.make_output(seeded_config, 1), cases.truths(seeded_config, cases.make_target())
    )
    stages = {f"s{s}_{term}" for s in range(2) for term in ("mask", "dice", "stuff", "rank", "class")}
    assert (
        set(terms)
        == {"head_mask", "head_dice", "head_stuff", "head_rank", "head_seg", "head_heat", "head_vote"} | stages
    )


def test_weights_scale_their_terms(cases, learned_config):
    output, truth = cases.make_output(learned_config, 1), cases.truths(learned_config, cases.make_target())
    before = Criterion(learned_config, PAPER)(output, truth)
    loss = LossConfig(class_weight=4.0, mask_weight=3.0, dice_weight=2.0, rank_weight=0.0, seg_weight=0.5)
    after = Criterion(learned_config, loss)(output, truth)
    factors = {"class": 2.0, "mask": 3.0, "dice": 0.5, "seg": 0.5}
    assert set(before) - set(after) == {"head_rank", "s0_rank", "s1_rank"}
    for name, term in after.items():
        torch.testing.assert_close(term, before[name] * factors[name.split("_")[1]])


@pytest.mark.parametrize("last", [1, 5])
def test_each_stage_is_matched_by_the_predictions_before_it(cases, learned_config, last):
    target = cases.make_target(((16, 16, 48, 48),), (0,))
    truth = cases.truths(learned_config, target)
    right = 20 * (2 * truth[0].thing_masks[0] - 1)
    masks = torch.full((3, 1, learned_config.num_kernels + 2, 16, 16), -20.0, dtype=torch.float64)
    masks[0, 0, 4] = masks[1, 0, 1] = masks[2, 0, last] = right  # the kernel that makes the right mask
    output = dataclasses.replace(cases.make_output(learned_config, 1), mask_logits=tuple(masks))
    terms = Criterion(learned_config, LossConfig(stuff_mask_weight=0.0))(output, truth)
    assert terms["head_dice"] < 1e-3
    assert terms["s0_dice"] == pytest.approx(4, abs=1e-3)  # of kernel 4, which makes nothing any more
    assert terms["s1_dice"] == pytest.approx(0 if last == 1 else 4, abs=1e-3)  # of kernel 1


def test_class_predictions_count_in_matching_after_the_first_stage(cases, learned_config):
    truth = cases.truths(learned_config, cases.make_target(((16, 16, 48, 48),), (1,)))
    output = cases.make_output(learned_config, 1)
    same = torch.zeros_like(output.mask_logits[0])
    classes = torch.full_like(output.class_logits[0], -5.0)
    classes[0, 3, 1] = 5.0
    output = dataclasses.replace(output, mask_logits=(same,) * 3, class_logits=(classes,) * 2)
    first, second = Criterion(learned_config, PAPER).assign(output, truth)
    assert [pair.kernel.tolist() for pair in first] == [[0]]
    assert [pair.kernel.tolist() for pair in second] == [[3]]


@BOTH
def test_a_perfect_prediction_costs_nearly_nothing(cases, config, loss):
    truth = cases.truths(config, cases.make_target())
    target, num_kernels = truth[0], config.num_kernels
    output = cases.make_output(config, 1)
    with torch.no_grad():
        for logits in output.mask_logits:
            logits.fill_(-20.0)
            logits[0, 1], logits[0, 3] = 40 * target.thing_masks[0] - 20, 40 * target.thing_masks[1] - 20
            logits[0, num_kernels:] = 40 * target.stuff_masks - 20
        for logits in output.class_logits:
            logits.fill_(-20.0)
            logits[0, 1, 0] = logits[0, 3, 1] = 20.0
            logits[0, num_kernels, 2] = logits[0, num_kernels + 1, 3] = 20.0
        if output.heat_logits is not None:
            output.heat_logits[0, 0] = 40 * target.centres.double() - 20
            output.votes[0] = target.own_centre
        step = config.feature_stride // config.mask_stride
        semantic = torch.cat((target.thing_masks, target.stuff_masks))[:, ::step, ::step]
        output.seg_logits[0] = 200 * semantic - 100
    terms = Criterion(config, loss)(output, truth)
    for name, term in terms.items():
        # The eps of the dice losses, 1e-3, remains, and 0.01 cells of the votes.
        assert float(term.detach()) < (1e-2 if name == "head_vote" else 2e-3), name


@BOTH
@pytest.mark.parametrize("which", ["none_anywhere", "none_in_one_image", "no_things", "no_stuff"])
def test_missing_targets_give_finite_losses_and_gradients(cases, config, loss, which):
    targets = {
        "none_anywhere": [cases.make_empty_target(), cases.make_empty_target()],
        "none_in_one_image": [cases.make_target(), cases.make_empty_target()],
        "no_things": [cases.make_target((), ())] * 2,
        "no_stuff": [cases.make_target(stuff=())] * 2,
    }[which]
    output = cases.make_output(config, 2)
    terms = Criterion(config, loss)(output, cases.truths(config, *targets))
    cases.total(terms).backward()
    assert all(term.isfinite() for term in terms.values())
    for leaf in (*output.mask_logits, *output.class_logits, output.seg_logits):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@BOTH
def test_the_order_of_the_objects_does_not_matter(cases, config, loss):
    boxes, classes = ((0, 0, 16, 32), (32, 16, 48, 48), (48, 48, 64, 64)), (0, 1, 0)
    output = cases.make_output(config, 1)
    order = [2, 0, 1]
    shuffled = cases.make_target([boxes[i] for i in order], [classes[i] for i in order])
    criterion = Criterion(config, loss)
    expected = criterion(output, cases.truths(config, cases.make_target(boxes, classes)))
    for name, term in criterion(output, cases.truths(config, shuffled)).items():
        torch.testing.assert_close(term, expected[name])


@BOTH
def test_an_image_without_targets_adds_no_mask_terms(cases, config, loss):
    output = cases.make_output(config, 2)
    first = dataclasses.replace(
        output,
        mask_logits=tuple(x[:1] for x in output.mask_logits),
        class_logits=tuple(x[:1] for x in output.class_logits),
        seg_logits=output.seg_logits[:1],
        heat_logits=None if output.heat_logits is None else output.heat_logits[:1],
        active=None if output.active is None else output.active[:1],
    )
    criterion = Criterion(config, loss)
    both = criterion(output, cases.truths(config, cases.make_target(), cases.make_empty_target()))
    alone = criterion(first, cases.truths(config, cases.make_target()))
    for name in alone:
        if name.endswith(("_mask", "_dice", "_stuff")):
            torch.testing.assert_close(both[name], alone[name])


def test_things_are_judged_in_thing_columns_and_stuff_in_its_own(cases, learned_config):
    truth = cases.truths(learned_config, cases.make_target(stuff=(2,)))
    output, criterion = cases.make_output(learned_config, 1), Criterion(learned_config, PAPER)
    criterion(output, truth)["s0_class"].backward()
    judged = output.class_logits[0].grad[0] != 0
    num_things = learned_config.num_kernels
    assert judged[:num_things, :2].all()
    assert not judged[:num_things, 2:].any()
    assert judged[num_things:].tolist() == [[False, False, True, False], [False, False, False, True]]


def test_slots_out_of_use_cost_nothing(cases, seeded_config):
    truth, output = cases.truths(seeded_config, cases.make_target()), cases.make_output(seeded_config, 1)
    active = output.active.clone()
    active[0, 2:9] = False
    output = dataclasses.replace(output, active=active)
    cases.total(Criterion(seeded_config, SEEDED_LOSS)(output, truth)).backward()
    for leaf in (*output.mask_logits, *output.class_logits):
        assert (leaf.grad[~active] == 0).all()
        assert leaf.grad[active].abs().sum() > 0


def test_a_rank_loss_balances_things_and_stuff_where_told(cases, seeded_config):
    truth = cases.truths(seeded_config, cases.make_target(((0, 0, 16, 16),), (0,)))  # a sixteenth of the pixels
    output = cases.make_output(seeded_config, 1)
    output.mask_logits[0].data.zero_()
    output.mask_logits[0].data[:, -2:] = 1.0  # stuff is favoured everywhere
    output = dataclasses.replace(output, mask_logits=(output.mask_logits[0],) * 3)
    scores = [1.0] * 2 + [0.0] * seeded_config.num_kernels
    normaliser = torch.tensor(scores, dtype=torch.float64).logsumexp(dim=0)
    on_stuff, on_things = normaliser - 1, normaliser
    terms = Criterion(seeded_config, dataclasses.replace(SEEDED_LOSS, rank_weight=1.0))(output, truth)
    torch.testing.assert_close(terms["s1_rank"], 0.5 * on_things + 0.5 * on_stuff)
    terms = Criterion(seeded_config, LossConfig(rank_weight=1.0))(output, truth)
    torch.testing.assert_close(terms["s1_rank"], on_things / 16 + on_stuff * 15 / 16)


@BOTH
def test_every_part_of_a_network_gets_a_finite_gradient(cases, config, loss):
    torch.manual_seed(0)
    network = KNet(config).train()
    output = network(torch.randn(2, 3, cases.SIZE, cases.SIZE))
    truth = [prepare_targets(target, config) for target in (cases.make_target(), cases.make_empty_target())]
    cases.total(Criterion(config, loss)(output, truth)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("name", "legal"), [("mask_normaliser", "pixels, area"), ("seg_loss", "focal, cross_entropy")])
def test_an_unknown_choice_is_refused(name, legal):
    with pytest.raises(ValueError, match=f"{name} is 'other'; legal: {legal}"):
        LossConfig(**{name: "other"})


def test_class_accuracy_looks_at_thing_columns_alone(cases, learned_config):
    """Where the paper's code takes the highest of all columns, which a thing's kernel is not trained in."""
    truth, output = (
        cases.truths(learned_config, cases.make_target(), cases.make_empty_target()),
        cases.make_output(learned_config, 2),
    )
    criterion = Criterion(learned_config, PAPER)
    masks = torch.full_like(output.mask_logits[0], -9.0)
    masks[0, [4, 1]] = 18 * truth[0].thing_masks.to(masks) - 9
    classes = torch.zeros_like(output.class_logits[0])
    classes[..., learned_config.num_things :] = 50.0
    classes[0, 4, 0], classes[0, 1, 1] = 1.0, 1.0
    same = dataclasses.replace(output, mask_logits=(masks,) * 3, class_logits=(classes,) * 2)
    assert criterion.class_accuracy(same, truth) == 1.0
    classes[0, 1, 0] = 2.0
    assert criterion.class_accuracy(same, truth) == 0.5
    assert (
        criterion.class_accuracy(
            same, cases.truths(learned_config, cases.make_empty_target(), cases.make_empty_target())
        )
        == 1.0
    )
