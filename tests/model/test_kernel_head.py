import dataclasses

import pytest
import torch

from model.kernel_head import DetectionKernelHead
from model.kernels import OUTSIDE


def make_head(config):
    torch.manual_seed(0)
    head = DetectionKernelHead(config).double().eval()
    torch.nn.init.normal_(head.conv_seg.bias)
    return head


def make_maps(config, batch=2):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, config.channels, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_the_feature_map_is_the_sum_of_both_maps(config):
    head, (localisation, segmentation) = make_head(config), make_maps(config)
    expected = head.localisation(localisation) + head.segmentation(segmentation)
    torch.testing.assert_close(head((localisation, segmentation)).features, expected)


def test_semantic_kernels_are_the_stuff_rows_of_the_segmentation_convolution(config):
    head, maps = make_head(config), make_maps(config)
    output = head(maps)
    kernels = output.kernels.weights[:, config.num_kernels :]
    expected = head.conv_seg.weight[config.num_things :, :, 0, 0]
    assert torch.equal(kernels, expected.expand(2, -1, -1))
    # Their first masks hold the bias.
    torch.testing.assert_close(output.seg_logits, head.conv_seg(head.segmentation(maps[1])))
    assert torch.equal(output.kernels.mask_logits[:, config.num_kernels :], output.seg_logits[:, config.num_things :])


def test_learned_kernels_filter_the_localisation_map_and_add_their_group_features(learned_config):
    head, maps = make_head(learned_config), make_maps(learned_config)
    output = head(maps)
    weights = head.things.weight
    masks = torch.einsum("nc,bchw->bnhw", weights, head.localisation(maps[0]))
    torch.testing.assert_close(output.kernels.mask_logits[:, : learned_config.num_kernels], masks)
    group_features = torch.einsum("bnhw,bchw->bnc", (masks > 0).double(), output.features)
    torch.testing.assert_close(output.kernels.weights[:, : learned_config.num_kernels], weights + group_features)


def test_stuff_has_no_place_and_is_always_in_use(seeded_config):
    kernels = make_head(seeded_config)(make_maps(seeded_config)).kernels
    stuff = slice(seeded_config.num_kernels, None)
    assert kernels.active[:, stuff].all()
    assert (kernels.place.falloff[:, stuff] == 0).all()
    assert (kernels.place.bias[:, stuff] == 0).all()


def test_without_stuff_all_kernels_are_things(learned_config):
    config = dataclasses.replace(learned_config, categories=learned_config.categories[:2])
    output = make_head(config)(make_maps(config))
    assert output.kernels.weights.shape[1] == config.num_kernels
    assert output.seg_logits.shape[1] == 2


@pytest.mark.parametrize("columns", [0, 5])
def test_first_masks_stay_within_the_content(config, columns):
    valid = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    valid[1, :, :, columns:] = False
    mask_logits = make_head(config)(make_maps(config), valid).kernels.mask_logits
    assert (mask_logits[1, :, :, columns:] == OUTSIDE).all()
    assert (mask_logits[0] != OUTSIDE).all()
