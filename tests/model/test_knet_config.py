import dataclasses
import json
import re

import pytest

from model.config import BackboneConfig, Category, KNetConfig, knet_nuclei, knet_r50
from model.official import OFFICIAL

ILLEGAL = [
    ("normalisation", "none", "imagenet, image"),
    ("norm", "layer", "group, batch"),
    ("first_kernels", "random", "learned, seeded"),
    ("merge", "some", "official, confident"),
    ("geometry", "crop", "fit, shortest_edge, tile"),
    ("kind", "boxes", "panoptic, instance, semantic"),
    ("neck", "fcn", "semantic_fpn for the others"),
    ("dropout", 0.1, "0 unless semantic"),
    ("auxiliary", True, "False unless semantic, with two"),
    ("update_channels", 7, "divisors of 32"),
    ("max_instances", 0, "1 and above"),
    ("channels", 0, "1 and above"),
    ("num_kernels", 0, "1 and above"),
    ("num_stages", 0, "1 and above"),
    ("num_heads", 3, "multiple of num_heads"),
    ("feature_stride", 3, "2, 4, 8"),
    ("mask_upsample", 3, "1, 2, 4"),
    ("output_stride", 3, "those of 1, 2, 4, 8 that divide 4"),
    ("output_stride", 0, "those of 1, 2, 4, 8 that divide 4"),
    ("canvas_sizes", (), "multiples of 32"),
    ("canvas_sizes", (64, 65), "multiples of 32"),
    ("canvas_sizes", (64, 0), "multiples of 32"),
    ("canvas_sizes", (64,), "height, width"),
    ("tile_overlap", 64, "0 up to 32"),
    ("tile_overlap", -1, "0 up to 32"),
    ("channels", 48, "multiple of 32"),
    ("fpn_channels", 18, "multiple of 4"),
    ("num_training_kernels", 5, "for learned kernels: 6"),
    ("num_training_kernels", 0, "1 and above"),
    ("fixed_stuff_score", 1.1, "0..1"),
    ("score_threshold", 1.5, "0..1"),
    ("overlap_threshold", -0.1, "0..1"),
]


@pytest.mark.parametrize(("name", "value", "legal"), ILLEGAL)
def test_an_illegal_value_is_named_with_what_is_legal(learned_config, name, value, legal):
    with pytest.raises(ValueError, match=r"; legal") as error:
        dataclasses.replace(learned_config, **{name: value})
    message = str(error.value)
    assert name in message
    assert str(value) in message
    assert legal in message


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("levels", (1, 3), "each one more"),
        ("levels", (2, 1), "each one more"),
        ("levels", (), "each one more"),
        ("max_stride", 4, "8, 16, 32"),
        ("frozen_level", 0, "1, 2, 3, 4, or None"),
        ("deformable_levels", (2, 5), "some of 1, 2, 3, 4"),
        ("drop_path", 1.0, "not including, 1"),
        ("drop_path", 0.3, "0 unless the backbone is a Swin"),
    ],
)
def test_an_illegal_value_of_the_backbone_is_named_with_what_is_legal(name, value, legal):
    with pytest.raises(ValueError, match=rf"backbone\.{name} is .*; legal: .*{legal}"):
        BackboneConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("neck", "semantic_fpn", "fcn, psp, aspp, uper for kind semantic"),
        ("feature_stride", 8, "with neck uper: 4"),
        ("backbone", BackboneConfig(name="resnet50c", max_stride=8), "uper needs a backbone of max_stride 32"),
        ("mask_upsample", 2, "for kind semantic: 1"),
        ("num_kernels", 3, "for kind semantic: 0"),
        ("dropout", 1.0, "0..1"),
        ("first_kernels", "seeded", "for kind instance and semantic: learned"),
        ("output_stride", 8, "those of 1, 2, 4, 8 that divide 4"),
        ("categories", (), "at least one"),
        ("merge", "confident", "for kind instance and semantic: official"),
        ("mask_quality", True, "for kind semantic: False"),
    ],
)
def test_a_semantic_network_has_its_own_rules(semantic_config, name, value, legal):
    with pytest.raises(ValueError, match=re.escape(legal)):
        dataclasses.replace(semantic_config, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("output_stride", 4, "the feature stride 8"),
        ("geometry", "tile", "for kind instance: fit, shortest_edge"),
        ("padding_in_masks", False, "for kind instance, enlarged by the host: True"),
        ("canvas_sizes", (128, 64), "shortest, longest side"),
        ("canvas_sizes", (64,), "shortest, longest side"),
    ],
)
def test_an_instance_network_has_its_own_rules(instance_config, name, value, legal):
    with pytest.raises(ValueError, match=re.escape(legal)):
        dataclasses.replace(instance_config, **{name: value})


def test_an_instance_network_knows_things_alone(instance_config, learned_config):
    with pytest.raises(ValueError, match="kind instance must be things"):
        dataclasses.replace(instance_config, categories=learned_config.categories)


@pytest.mark.parametrize("name", OFFICIAL)
def test_json_gives_the_same_official_config(name):
    config = OFFICIAL[name]()
    assert KNetConfig.from_json(config.to_json()) == config
    slots = {"panoptic": 153, "instance": 100, "semantic": 150}
    assert config.num_slots == slots[config.kind]


@pytest.mark.parametrize("order", [[2, 0], [2], []])
def test_categories_are_one_thing_at_least_and_then_stuff(learned_config, order):
    categories = tuple(learned_config.categories[i] for i in order)
    with pytest.raises(ValueError, match="things before stuff"):
        dataclasses.replace(learned_config, categories=categories)


@pytest.mark.parametrize("colour", [(0, 0), (0, 0, 256), (-1, 0, 0)])
def test_a_colour_is_three_values_of_a_byte(colour):
    with pytest.raises(ValueError, match=r"'cell'.*legal: three values 0\.\.255"):
        Category(id=1, name="cell", is_thing=True, colour=colour)


def test_mask_upsampling_is_at_most_the_feature_stride(seeded_config):
    with pytest.raises(ValueError, match="at most feature_stride"):
        dataclasses.replace(seeded_config, mask_upsample=4)


def test_ids_of_categories_differ(learned_config):
    first, *rest = learned_config.categories
    with pytest.raises(ValueError, match=r"must differ: \[1, 1, 7, 9\]"):
        dataclasses.replace(learned_config, categories=(dataclasses.replace(first, id=1), *rest))


def test_seeded_kernels_may_be_fewer_in_training(seeded_config):
    assert dataclasses.replace(seeded_config, num_training_kernels=3).num_training_kernels == 3


@pytest.mark.parametrize("variant", [knet_r50, knet_nuclei])
def test_json_gives_the_same_config(variant, categories):
    config = variant(categories)
    assert KNetConfig.from_json(config.to_json()) == config


def test_json_with_an_unknown_or_a_missing_field_is_refused(learned_config):
    values = json.loads(learned_config.to_json())
    with pytest.raises(ValueError, match=r"unknown fields.*num_legs"):
        KNetConfig.from_json(json.dumps(values | {"num_legs": 4}))
    del values["num_heads"]
    with pytest.raises(ValueError, match=r"missing fields.*num_heads"):
        KNetConfig.from_json(json.dumps(values))


def test_json_values_are_checked_too(learned_config):
    values = json.loads(learned_config.to_json())
    with pytest.raises(ValueError, match="feature_stride is 5"):
        KNetConfig.from_json(json.dumps(values | {"feature_stride": 5}))


def test_derived_numbers(learned_config, seeded_config):
    assert (learned_config.num_classes, learned_config.num_things, learned_config.num_stuff) == (4, 2, 2)
    assert (learned_config.mask_stride, seeded_config.mask_stride) == (4, 2)
    assert learned_config.size_multiple == 32
