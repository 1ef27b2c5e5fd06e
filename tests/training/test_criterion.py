import dataclasses

import pytest
import torch

from model.knet import KNet, KNetOutput
from training.criterion import Criterion, LossConfig, image_targets
from training.dataset import Target
from training.matcher import MatcherConfig

SIZE = 64
PAPER = LossConfig()
SMALL_OBJECTS = LossConfig(  # as in the nuclei recipe
    rank_weight=1.0,
    mask_normaliser="area",
    rank_balanced=True,
    stuff_mask_weight=1.0,
    seg_loss="cross_entropy_dice",
    matcher=MatcherConfig(mask_cost="cross_entropy"),
)
BOTH = pytest.mark.parametrize("loss", [PAPER, SMALL_OBJECTS], ids=["paper", "small_objects"])


def make_target(boxes=((0, 0, 16, 32), (32, 16, 48, 48)), classes=(0, 1), stuff=(2, 3)):
    """Boxes (y0, x0, y1, x1) of things on two halves of stuff. Multiples of 16: sharp at every stride."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    free = ~masks.any(dim=0)
    left = torch.arange(SIZE) < SIZE // 2
    halves = {2: free & left, 3: free & ~left}
    return Target(
        masks=torch.cat((masks, *[halves[index][None] for index in stuff])),
        class_index=torch.tensor([*classes, *stuff], dtype=torch.int64),
        valid_size=(SIZE, SIZE),
        pixel_mean=0.0,
        pixel_std=1.0,
    )


def make_empty_target():
    return make_target((), (), ())


def make_output(config, batch, num_kernels=None):
    """Leaves of a graph in place of a network's output, at random."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    num_kernels = (num_kernels or config.num_kernels) + config.num_stuff
    mask, feature = SIZE // config.mask_stride, SIZE // config.feature_stride
    seeded = config.first_kernels == "seeded"
    return KNetOutput(
        tuple(leaf(batch, num_kernels, mask, mask) for _ in range(config.num_stages + 1)),
        leaf(batch, num_kernels, feature, feature),
        tuple(leaf(batch, num_kernels, config.num_classes) for _ in range(config.num_stages)),
        leaf(batch, config.num_classes, feature, feature),
        leaf(batch, 1, feature, feature) if seeded else None,
        torch.ones(batch, num_kernels, dtype=torch.bool) if seeded else None,
    )


def truths(config, *targets):
    return [image_targets(target, config, torch.float64) for target in targets]


def total(terms):
    return torch.stack(list(terms.values())).sum()


def test_targets_are_split_into_things_and_stuff(config):
    truth = image_targets(make_target(), config)
    mask = SIZE // config.mask_stride
    assert truth.thing_masks.shape == truth.stuff_masks.shape == (2, mask, mask)
    assert truth.thing_class.tolist() == [0, 1]
    assert truth.stuff_index.tolist() == [0, 1]
    assert (truth.thing_masks.sum(dim=0) + truth.stuff_masks.sum(dim=0) == 1).all()
    if config.first_kernels == "seeded":
        assert truth.heat.shape == truth.centres.shape == (SIZE // 2, SIZE // 2)
        assert truth.centres.sum() == 2


def test_terms_of_the_paper(learned_config):
    terms = Criterion(learned_config, PAPER)(
        make_output(learned_config, 2), truths(learned_config, *[make_target()] * 2)
    )
    stages = {f"s{s}_{term}" for s in range(2) for term in ("mask", "dice", "rank", "class")}
    assert set(terms) == {"head_mask", "head_dice", "head_rank", "head_seg"} | stages
    assert all(term.shape == () for term in terms.values())


def test_terms_for_small_objects(seeded_config):
    terms = Criterion(seeded_config, SMALL_OBJECTS)(make_output(seeded_config, 1), truths(seeded_config, make_target()))
    stages = {f"s{s}_{term}" for s in range(2) for term in ("mask", "dice", "stuff", "rank", "class")}
    assert set(terms) == {"head_mask", "head_dice", "head_stuff", "head_rank", "head_seg", "head_heat"} | stages


def test_weights_scale_their_terms(learned_config):
    output, truth = make_output(learned_config, 1), truths(learned_config, make_target())
    before = Criterion(learned_config, PAPER)(output, truth)
    loss = LossConfig(class_weight=4.0, mask_weight=3.0, dice_weight=2.0, rank_weight=0.0, seg_weight=0.5)
    after = Criterion(learned_config, loss)(output, truth)
    factors = {"class": 2.0, "mask": 3.0, "dice": 0.5, "seg": 0.5}
    assert set(before) - set(after) == {"head_rank", "s0_rank", "s1_rank"}
    for name, term in after.items():
        torch.testing.assert_close(term, before[name] * factors[name.split("_")[1]])


@pytest.mark.parametrize("last", [1, 5])
def test_each_stage_is_matched_by_the_predictions_before_it(learned_config, last):
    target = make_target(((16, 16, 48, 48),), (0,))
    truth = truths(learned_config, target)
    right = 20 * (2 * truth[0].thing_masks[0] - 1)
    masks = torch.full((3, 1, learned_config.num_kernels + 2, 16, 16), -20.0, dtype=torch.float64)
    masks[0, 0, 4] = masks[1, 0, 1] = masks[2, 0, last] = right  # the kernel that makes the right mask
    output = dataclasses.replace(make_output(learned_config, 1), mask_logits=tuple(masks))
    terms = Criterion(learned_config, LossConfig(stuff_mask_weight=0.0))(output, truth)
    assert terms["head_dice"] < 1e-3
    assert terms["s0_dice"] == pytest.approx(4, abs=1e-3)  # of kernel 4, which makes nothing any more
    assert terms["s1_dice"] == pytest.approx(0 if last == 1 else 4, abs=1e-3)  # of kernel 1


def test_class_predictions_count_in_matching_after_the_first_stage(learned_config):
    truth = truths(learned_config, make_target(((16, 16, 48, 48),), (1,)))
    output = make_output(learned_config, 1)
    same = torch.zeros_like(output.mask_logits[0])
    classes = torch.full_like(output.class_logits[0], -5.0)
    classes[0, 3, 1] = 5.0
    criterion = Criterion(learned_config, PAPER)
    arguments = (None, truth)
    assert [m.kernel.tolist() for m in criterion._match(same, classes, *arguments)] == [[3]]
    assert [m.kernel.tolist() for m in criterion._match(same, None, *arguments)] == [[0]]


@BOTH
def test_a_perfect_prediction_costs_nearly_nothing(config, loss):
    truth = truths(config, make_target())
    target, num_kernels = truth[0], config.num_kernels
    output = make_output(config, 1)
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
        step = config.feature_stride // config.mask_stride
        semantic = torch.cat((target.thing_masks, target.stuff_masks))[:, ::step, ::step]
        output.seg_logits[0] = 200 * semantic - 100
    terms = Criterion(config, loss)(output, truth)
    for name, term in terms.items():
        assert float(term.detach()) < 2e-3, name  # the dice losses' eps of 1e-3 remains


@BOTH
@pytest.mark.parametrize("which", ["none_anywhere", "none_in_one_image", "no_things", "no_stuff"])
def test_missing_targets_give_finite_losses_and_gradients(config, loss, which):
    targets = {
        "none_anywhere": [make_empty_target(), make_empty_target()],
        "none_in_one_image": [make_target(), make_empty_target()],
        "no_things": [make_target((), ())] * 2,
        "no_stuff": [make_target(stuff=())] * 2,
    }[which]
    output = make_output(config, 2)
    terms = Criterion(config, loss)(output, truths(config, *targets))
    total(terms).backward()
    assert all(term.isfinite() for term in terms.values())
    for leaf in (*output.mask_logits, *output.class_logits, output.seg_logits):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@BOTH
def test_the_order_of_the_objects_does_not_matter(config, loss):
    boxes, classes = ((0, 0, 16, 32), (32, 16, 48, 48), (48, 48, 64, 64)), (0, 1, 0)
    output = make_output(config, 1)
    order = [2, 0, 1]
    shuffled = make_target([boxes[i] for i in order], [classes[i] for i in order])
    criterion = Criterion(config, loss)
    expected = criterion(output, truths(config, make_target(boxes, classes)))
    for name, term in criterion(output, truths(config, shuffled)).items():
        torch.testing.assert_close(term, expected[name])


@BOTH
def test_an_image_without_targets_adds_no_mask_terms(config, loss):
    output = make_output(config, 2)
    first = dataclasses.replace(
        output,
        mask_logits=tuple(x[:1] for x in output.mask_logits),
        class_logits=tuple(x[:1] for x in output.class_logits),
        seg_logits=output.seg_logits[:1],
        heat_logits=None if output.heat_logits is None else output.heat_logits[:1],
        active=None if output.active is None else output.active[:1],
    )
    criterion = Criterion(config, loss)
    both = criterion(output, truths(config, make_target(), make_empty_target()))
    alone = criterion(first, truths(config, make_target()))
    for name in alone:
        if name.endswith(("_mask", "_dice", "_stuff")):
            torch.testing.assert_close(both[name], alone[name])


def test_things_are_judged_in_thing_columns_and_stuff_in_its_own(learned_config):
    truth = truths(learned_config, make_target(stuff=(2,)))
    output, criterion = make_output(learned_config, 1), Criterion(learned_config, PAPER)
    criterion(output, truth)["s0_class"].backward()
    judged = output.class_logits[0].grad[0] != 0
    num_things = learned_config.num_kernels
    assert judged[:num_things, :2].all()
    assert not judged[:num_things, 2:].any()
    assert judged[num_things:].tolist() == [[False, False, True, False], [False, False, False, True]]


def test_slots_out_of_use_cost_nothing(seeded_config):
    truth, output = truths(seeded_config, make_target()), make_output(seeded_config, 1)
    active = output.active.clone()
    active[0, 2:9] = False
    output = dataclasses.replace(output, active=active)
    total(Criterion(seeded_config, SMALL_OBJECTS)(output, truth)).backward()
    for leaf in (*output.mask_logits, *output.class_logits):
        assert (leaf.grad[~active] == 0).all()
        assert leaf.grad[active].abs().sum() > 0


def test_a_rank_loss_balances_things_and_stuff_where_told(seeded_config):
    truth = truths(seeded_config, make_target(((0, 0, 16, 16),), (0,)))  # a sixteenth of the pixels
    output = make_output(seeded_config, 1)
    output.mask_logits[0].data.zero_()
    output.mask_logits[0].data[:, -2:] = 1.0  # stuff is favoured everywhere
    output = dataclasses.replace(output, mask_logits=(output.mask_logits[0],) * 3)
    scores = [1.0] * 2 + [0.0] * seeded_config.num_kernels
    normaliser = torch.tensor(scores, dtype=torch.float64).logsumexp(dim=0)
    on_stuff, on_things = normaliser - 1, normaliser
    terms = Criterion(seeded_config, dataclasses.replace(SMALL_OBJECTS, rank_weight=1.0))(output, truth)
    torch.testing.assert_close(terms["s1_rank"], 0.5 * on_things + 0.5 * on_stuff)
    terms = Criterion(seeded_config, LossConfig(rank_weight=1.0))(output, truth)
    torch.testing.assert_close(terms["s1_rank"], on_things / 16 + on_stuff * 15 / 16)


@BOTH
def test_every_part_of_a_network_gets_a_finite_gradient(config, loss):
    torch.manual_seed(0)
    network = KNet(config).train()
    output = network(torch.randn(2, 3, SIZE, SIZE))
    truth = [image_targets(target, config) for target in (make_target(), make_empty_target())]
    total(Criterion(config, loss)(output, truth)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("name", "legal"), [("mask_normaliser", "pixels, area"), ("seg_loss", "focal, cross_entropy")])
def test_an_unknown_choice_is_refused(name, legal):
    with pytest.raises(ValueError, match=f"{name} is 'other'; legal: {legal}"):
        LossConfig(**{name: "other"})


def test_class_accuracy_looks_at_thing_columns_alone(learned_config):
    """Where the paper's code takes the highest of all columns, which a thing's kernel is not trained in."""
    truth, output = truths(learned_config, make_target(), make_empty_target()), make_output(learned_config, 2)
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
    assert criterion.class_accuracy(same, truths(learned_config, make_empty_target(), make_empty_target())) == 1.0
