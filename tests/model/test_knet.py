import dataclasses

import pytest
import torch

from model.kernels import OUTSIDE, Kernels, Place
from model.knet import KNet, enlarge, valid_cells


def make_network(config):
    """In float64: the hard masks of one image alone and in a batch agree in every pixel."""
    torch.manual_seed(0)
    return KNet(config).double().eval()


def make_images(batch=2, height=64, width=96):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_shapes_of_every_output(config):
    output = make_network(config)(make_images())
    num_kernels = config.num_kernels + config.num_stuff
    mask = (2, num_kernels, 64 // config.mask_stride, 96 // config.mask_stride)
    features = (64 // config.feature_stride, 96 // config.feature_stride)
    assert [tuple(x.shape) for x in output.mask_logits] == [mask] * (config.num_stages + 1)
    assert [tuple(x.shape) for x in output.class_logits] == [(2, num_kernels, config.num_classes)] * config.num_stages
    assert output.seg_logits.shape == (2, config.num_classes, *features)
    if config.first_kernels == "seeded":
        assert output.heat_logits.shape == (2, 1, *features)
        assert output.active.shape == (2, num_kernels)
        assert output.active[:, -config.num_stuff :].all()
    else:
        assert output.heat_logits is None
        assert output.active is None


@pytest.mark.parametrize("feature_stride", [2, 4, 8])
def test_any_legal_feature_stride_fits(seeded_config, feature_stride):
    config = dataclasses.replace(seeded_config, feature_stride=feature_stride, output_stride=1)
    output = make_network(config)(make_images(1))
    assert output.mask_logits[-1].shape[-2:] == (64 // feature_stride, 96 // feature_stride)


def test_a_batch_gives_what_its_images_give_alone(config):
    network, images = make_network(config), make_images()
    valid = torch.ones(2, 1, 64 // config.feature_stride, 96 // config.feature_stride, dtype=torch.bool)
    valid[1, :, :, -3:] = False
    together = network(images, valid)
    for i in range(2):
        alone = network(images[i : i + 1], valid[i : i + 1])
        # Sums in another order.
        torch.testing.assert_close(alone.mask_logits[-1][0], together.mask_logits[-1][i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone.class_logits[-1][0], together.class_logits[-1][i], rtol=1e-9, atol=1e-9)


def test_no_mask_reaches_into_the_padding(config):
    stride = config.feature_stride
    valid = valid_cells(torch.tensor([[64, 96], [40, 56]]), 64 // stride, 96 // stride, stride)
    output = make_network(config)(make_images(), valid)
    s = config.mask_stride
    inside = valid_cells(torch.tensor([[64, 96], [40, 56]]), 64 // s, 96 // s, s)
    for logits in output.mask_logits:
        assert (torch.where(inside, OUTSIDE, logits) == OUTSIDE).all()
        assert (torch.where(inside, logits, 0) != OUTSIDE).all()


def test_everything_valid_is_the_same_as_nothing_said(config):
    network, images = make_network(config), make_images()
    valid = torch.ones(2, 1, 64 // config.feature_stride, 96 // config.feature_stride, dtype=torch.bool)
    for ours, expected in zip(network(images, valid).mask_logits, network(images).mask_logits, strict=True):
        torch.testing.assert_close(ours, expected)


def test_features_in_the_padding_change_no_kernel(config):
    torch.manual_seed(1)
    stage, num_kernels = make_network(config).stages[0], config.num_kernels + config.num_stuff
    valid = torch.ones(1, 1, 8, 12, dtype=torch.bool)
    valid[..., 7:] = False
    weights, features = torch.randn(1, num_kernels, config.channels).double(), torch.randn(1, config.channels, 8, 12)
    mask_logits = torch.where(valid, torch.randn(1, num_kernels, 8, 12), OUTSIDE)
    place = None
    if config.first_kernels == "seeded":
        ones, votes = torch.ones(1, num_kernels), torch.rand(1, 2, 8, 12)
        place = Place(torch.rand(1, num_kernels, 2), ones, 0 * ones, votes)
    kernels = Kernels(weights, mask_logits, None, place)
    results = [stage(kernels, x.double(), valid) for x in (features, torch.where(valid, features, 1000.0))]
    (ours, our_classes), (expected, expected_classes) = results
    assert torch.equal(our_classes, expected_classes)
    assert torch.equal(ours.mask_logits, expected.mask_logits)


def test_forced_seeds_become_kernels(seeded_config):
    network, images = make_network(seeded_config), make_images(1)
    forced = torch.zeros(1, 1, 32, 48, dtype=torch.bool)
    forced[0, 0, 5, 7] = True
    assert network(images).active[0, : seeded_config.num_kernels].sum() == 0  # the heat starts below every threshold
    assert network(images, None, forced).active[0, : seeded_config.num_kernels].sum() == 1


def test_slots_out_of_use_leave_the_stuff_as_it_is(seeded_config):
    few = dataclasses.replace(seeded_config, num_kernels=4)
    state = make_network(seeded_config).state_dict()
    outputs = []
    for config in (seeded_config, few):
        network = make_network(config)
        network.load_state_dict(state)
        outputs.append(network(make_images(1)).mask_logits[-1][:, -config.num_stuff :])
    torch.testing.assert_close(*outputs)


def test_group_norm_freezes_the_backbones_statistics(config):
    network = make_network(config).train()
    before = {name: buffer.clone() for name, buffer in network.backbone.named_buffers()}
    network(make_images())
    same = all(torch.equal(buffer, before[name]) for name, buffer in network.backbone.named_buffers())
    assert same == (config.norm == "group")
    assert network.training


def test_every_parameter_learns_from_masks_classes_and_maps(config):
    network = make_network(config).train()
    network.load_state_dict({k: v + 0.01 if v.is_floating_point() else v for k, v in network.state_dict().items()})
    forced = None
    if config.first_kernels == "seeded":
        forced = torch.zeros(2, 1, 32, 48, dtype=torch.bool)
        forced[:, 0, 5::9, 7::9] = True
    output = network(make_images(), None, forced)
    maps = [*output.mask_logits, *output.class_logits, output.seg_logits]
    maps += [] if output.heat_logits is None else [output.heat_logits]
    sum(x.square().mean() for x in maps).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_valid_cells_are_those_whose_first_pixel_is_content():
    valid = valid_cells(torch.tensor([[5, 9], [8, 4]], dtype=torch.int32), 2, 3, 4)
    assert valid.shape == (2, 1, 2, 3)
    assert valid.int().tolist() == [[[[1, 1, 1], [1, 1, 1]]], [[[1, 0, 0], [1, 0, 0]]]]


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarging_the_content_of_a_padded_map_equals_enlarging_it_cut_out(factor):
    masks = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    valid = valid_cells(torch.tensor([[4, 5]]), 6, 7, 1)
    whole = enlarge(masks, factor, valid, -7.0)
    cut = enlarge(masks[:, :, :4, :5], factor, None, -7.0)
    torch.testing.assert_close(whole[:, :, : 4 * factor, : 5 * factor], cut)
    assert (whole[:, :, 4 * factor :] == -7).all()
    assert (whole[:, :, :, 5 * factor :] == -7).all()
