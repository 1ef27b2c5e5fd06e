import dataclasses

import torch
import torch.nn.functional as F

from model.knet import KNet
from model.semantic import SemanticModel
from model.served import make_served


def make_network(config):
    torch.manual_seed(2)
    network = KNet(config).eval()
    for parameter in (*network.kernel_head.parameters(), *network.stages.parameters()):
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return network


def test_each_kernel_is_a_class_and_makes_one_mask_a_stage(semantic_config):
    output = make_network(semantic_config)(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in output.mask_logits] == [(2, 4, 16, 24)] * 3
    assert output.class_logits == ()
    assert output.auxiliary_logits is None
    assert torch.equal(output.mask_logits[0], output.seg_logits)


def test_a_second_segmentation_comes_in_training_alone(semantic_config):
    network = make_network(semantic_config).train()
    assert network(torch.randn(2, 3, 64, 96)).auxiliary_logits.shape == (2, 4, 4, 6)
    without = KNet(dataclasses.replace(semantic_config, auxiliary=False)).train()
    assert without(torch.randn(2, 3, 64, 96)).auxiliary_logits is None


def test_dropout_reaches_the_first_masks_and_not_the_features(semantic_config):
    network = make_network(dataclasses.replace(semantic_config, dropout=0.9)).kernel_head.train()
    features = torch.rand(1, 32, 8, 8)
    one, other = network((features,)), network((features,))
    assert not torch.equal(one.kernels.mask_logits, other.kernels.mask_logits)
    assert torch.equal(one.features, features)
    assert torch.equal(one.kernels.weights, other.kernels.weights)


def test_classes_share_each_pixel_of_the_content(semantic_config):
    kernels = make_network(semantic_config).kernel_head((torch.rand(1, 32, 8, 8),)).kernels
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., 5:] = False
    shares = kernels.class_shares(valid).sum(dim=1, keepdim=True)
    torch.testing.assert_close(shares, valid.float())
    torch.testing.assert_close(kernels.class_shares(None).sum(dim=1), torch.ones(1, 8, 8))


def test_the_class_map_is_the_highest_of_the_enlarged_logits(semantic_config, make_inputs):
    network, inputs = make_network(semantic_config), make_inputs()
    seen = []
    network.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        (class_map,) = SemanticModel(network).eval()(**inputs)
    logits = F.interpolate(seen[0].mask_logits[-1], (32, 48), mode="bilinear", align_corners=False)
    assert torch.equal(class_map, logits.argmax(dim=1).int())
    assert len(class_map.unique()) > 1


def test_padding_changes_nothing_within_the_receptive_field(semantic_config, make_inputs):
    """Pixels of the padding are 0 to the network and belong to no class."""
    model, inputs = make_served(make_network(semantic_config)), make_inputs(valid_size=[[64, 96], [40, 64]])
    changed = dict(inputs, image=inputs["image"].clone())
    changed["image"][1, 40:] = 255
    changed["image"][1, :, 64:] = 7
    with torch.inference_mode():
        assert torch.equal(model(**inputs).class_map[1, :20, :32], model(**changed).class_map[1, :20, :32])
    assert model.output_names == ("class_map",)


def test_kernels_of_parts_are_updated_part_by_part(semantic_config):
    torch.manual_seed(0)
    update = make_network(semantic_config).stages[0].adaptive_update
    group_features, kernels = torch.randn(2, 4, 32), torch.randn(2, 4, 32)
    whole = update(group_features, kernels)
    parts = [update(g, k) for g, k in zip(group_features.split(16, -1), kernels.split(16, -1), strict=True)]
    torch.testing.assert_close(whole, torch.cat(parts, dim=-1))
