import dataclasses
import re

import numpy as np
import pytest
import typer.testing

from knet.cli import app
from model.knet import KNet
from training.choose import RECIPES, make_config
from training.recipes import DataFacts
from training.run import resolve

KINDS = {"panoptic", "instance", "semantic"}


def facts_of(kind, categories, **changes):
    categories = categories[:2] if kind == "instance" else categories
    facts = DataFacts(kind=kind, categories=categories, num_images=118_287, image_size=(480, 640))
    return dataclasses.replace(facts, **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_data_annotated_for_it(name, categories):
    config = make_config(name, facts_of(RECIPES[name].kind, categories))
    assert config.model.kind == RECIPES[name].kind
    KNet(config.model)  # the network can be built


@pytest.mark.parametrize("name", RECIPES)
def test_regions_and_objects_train_every_kind_and_others_only_their_own(name, categories):
    kind = RECIPES[name].kind
    config = make_config(name, facts_of("panoptic", categories))
    assert config.model.categories == (categories[:2] if kind == "instance" else categories)
    for other in KINDS - {kind, "panoptic"}:
        with pytest.raises(ValueError, match=rf"recipe '{name}' trains a network of kind {kind}, .*legal: .*{other}"):
            make_config(name, facts_of(other, categories))


@pytest.mark.parametrize("name", ["small_panoptic", "small_instance"])
def test_regions_alone_train_semantic_networks_whatever_their_format(name, categories):
    facts = facts_of("panoptic", tuple(category for category in categories if not category.is_thing))
    with pytest.raises(ValueError, match=r"annotated as panoptic \(no things\) .*legal: small_semantic, s"):
        make_config(name, facts)


def test_an_unknown_recipe_is_refused_with_those_there_are(categories):
    with pytest.raises(ValueError, match="no recipe 'coco'; legal: nuclei, small_panoptic"):
        make_config("coco", facts_of("panoptic", categories))


@pytest.mark.parametrize("name", ["nuclei", "small_panoptic", "small_instance", "small_semantic"])
def test_networks_for_small_data_have_less_than_8_million_parameters(name, categories):
    network = KNet(make_config(name, facts_of(RECIPES[name].kind, categories)).model)
    assert sum(parameter.numel() for parameter in network.parameters()) < 8e6


def test_the_papers_schedule_is_that_of_its_code(categories):
    config = make_config("panoptic_r50_1x", facts_of("panoptic", categories))
    epoch = 118_287 / 16
    assert config.steps == pytest.approx(12 * epoch, abs=1)
    assert config.decay_at == pytest.approx((8 * epoch, 11 * epoch), abs=1)
    assert (config.learning_rate, config.weight_decay, config.backbone_factor, config.clip_norm) == (
        1e-4,
        0.05,
        0.25,
        1,
    )
    assert (config.warmup_steps, config.warmup_factor, config.ema_decay) == (1000, 0.001, 0)
    longer = make_config("panoptic_r50_3x", facts_of("panoptic", categories))
    assert longer.decay_at == pytest.approx((27 * epoch, 33 * epoch), abs=1)


def test_images_are_worked_on_no_larger_than_they_are(categories):
    config = make_config("small_semantic", facts_of("semantic", categories, image_size=(200, 250)))
    assert config.augment.crop_size == 224
    assert config.model.canvas_sizes == (200, 250)


def test_semantic_crops_are_of_the_scale_that_is_served(categories):
    config = make_config("small_semantic", facts_of("semantic", categories, image_size=(720, 960)))
    assert config.model.canvas_sizes == (720, 960)
    low, high = config.augment.fit_scale
    assert (low * config.augment.crop_size, high * config.augment.crop_size) == (960 / 2, 960 * 2)
    larger = make_config("small_semantic", facts_of("semantic", categories, image_size=(1024, 2048)))
    assert larger.model.canvas_sizes == (512, 1024)


def test_stained_images_weigh_more_where_there_are_any(categories):
    facts = facts_of("panoptic", categories)
    assert make_config("nuclei", facts).group_weights == {}
    groups = ("256x256 gray", "320x256 colour")
    assert make_config("nuclei", dataclasses.replace(facts, groups=groups)).group_weights == {"colour": 1.5}


def test_the_help_lists_every_recipe_with_its_own_words():
    result = typer.testing.CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "400"})
    words = re.sub(r"\s+", " ", result.output)
    for name, recipe in RECIPES.items():
        assert f"{name}: {recipe.summary}" in words


@pytest.mark.parametrize("name", ["small_semantic", "semantic_r50_80k"])
@pytest.mark.parametrize("size", [(360, 480), (720, 960), (480, 360), (512, 2048)])
def test_crops_of_semantic_recipes_are_of_the_served_scale_times_a_half_to_two(name, size, categories):
    config = make_config(name, facts_of("semantic", categories, image_size=size, num_images=367))
    segmenter_scale = min(
        config.model.canvas_sizes[0] / min(size), config.model.canvas_sizes[1] / max(size)
    )  # of geometry shortest_edge
    crop_scales = [config.augment.crop_size / max(size) * factor for factor in config.augment.fit_scale]
    assert crop_scales == pytest.approx([0.5 * segmenter_scale, 2 * segmenter_scale], rel=0.01)
    assert config.augment.crop_size % config.model.size_multiple == 0


def test_a_shorter_run_of_the_papers_has_its_steps_down_earlier(tmp_path, files):
    for name in "abcd":
        files.save(tmp_path / "images" / f"{name}.png", files.noise())
        files.save(tmp_path / "labels" / f"{name}.png", files.labels(0, 1))
    for steps, places in (("8000", (6000, 7200)), ("4", (3, 4)), ("1", (1,))):
        config, _, _ = resolve("semantic_r50_80k", tmp_path, changes={"steps": steps})
        assert config.decay_at == places
    config, _, _ = resolve("semantic_r50_80k", tmp_path, changes={"steps": "8000", "decay_at": "5000"})
    assert config.decay_at == (5000,)
    with pytest.raises(ValueError, match="steps is 'many'"):
        resolve("semantic_r50_80k", tmp_path, changes={"steps": "many"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.canvas_sizes", "512,256", r"canvas_sizes is \(512, 256\); legal: with geometry tile: each above"),
        ("model.tile_overlap", "200", "tile_overlap is 200; legal: 0 up to 128"),
        ("weight_decay", "-1", "weight_decay is -1.0; legal: 0 and above"),
        ("final_factor", "2", "final_factor is 2.0; legal: 0 to 1"),
        ("loss.rank_weight", "-1", "rank_weight is -1.0; legal: 0 and above"),
        ("loss.matcher.dice_weight", "-1", "dice_weight is -1.0; legal: 0 and above"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_before_the_first_step(key, value, message, tmp_path, files):
    for number in range(2):
        files.save(tmp_path / "images" / f"{number}.png", files.noise())
        files.save(tmp_path / "instance_maps" / f"{number}.png", files.labels(0, 1 + number, dtype=np.uint16))
    resolve("nuclei", tmp_path, changes={"model.canvas_sizes": "256"})
    with pytest.raises(ValueError, match=message):
        resolve("nuclei", tmp_path, changes={"model.canvas_sizes": "256", key: value})
