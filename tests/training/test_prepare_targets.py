import dataclasses

import pytest
import torch

from training.targets import IGNORED, prepare_targets


@pytest.fixture
def crowded(cases):
    """A box of class 0, and beside it a crowd of class 1; stuff 2 and 3 around them."""
    target = cases.make_target(((0, 0, 16, 32),), (0,))
    crowd = torch.zeros(1, cases.SIZE, cases.SIZE, dtype=torch.bool)
    crowd[0, 32:48, 16:48] = True
    return dataclasses.replace(
        target, masks=target.masks & ~crowd, crowd_masks=crowd, crowd_class=torch.tensor([1], dtype=torch.int64)
    )


def test_a_crowd_is_void_to_a_panoptic_network(crowded, config):
    truth = prepare_targets(crowded, config)
    step = config.mask_stride
    crowd = crowded.crowd_masks[0, ::step, ::step]
    covered = torch.cat((truth.thing_masks, truth.stuff_masks)).sum(dim=0)
    assert (covered == (~crowd).float()).all()
    assert truth.thing_class.tolist() == [0]


def test_an_instance_network_leaves_stuff_out(crowded, instance_config):
    truth = prepare_targets(crowded, instance_config)
    assert truth.thing_class.tolist() == [0]
    assert len(truth.thing_masks) == 1
    assert len(truth.stuff_masks) == len(truth.stuff_index) == 0


def test_labels_of_a_semantic_network_hold_every_segments_class_and_the_crowds(crowded, semantic_config):
    truth = prepare_targets(crowded, semantic_config)
    assert truth.labels.shape == crowded.masks.shape[1:]
    assert truth.labels.dtype == torch.int64
    for mask, class_index in zip(crowded.masks, crowded.class_index, strict=True):
        assert (truth.labels[mask] == class_index).all()
    assert (truth.labels[crowded.crowd_masks[0]] == 1).all()
    assert not (truth.labels == IGNORED).any()


def test_void_and_padding_have_no_label(cases, semantic_config):
    target = cases.make_target(stuff=(2,))
    labels = prepare_targets(target, semantic_config).labels
    assert torch.equal(labels == IGNORED, ~target.masks.any(dim=0))
    assert (prepare_targets(cases.make_empty_target(), semantic_config).labels == IGNORED).all()


def test_class_255_is_a_class_like_any_other(cases, semantic_config):
    target = cases.make_target(classes=(0, 255), stuff=())
    assert not (prepare_targets(target, semantic_config).labels[target.masks[1]] == IGNORED).any()


def test_of_overlapping_segments_the_later_one_has_the_label(cases, semantic_config):
    target = cases.make_target(((0, 0, 32, 32), (16, 16, 48, 48)), (0, 1), stuff=())
    labels = prepare_targets(target, semantic_config).labels
    assert labels[8, 8] == 0
    assert labels[24, 24] == labels[40, 40] == 1
