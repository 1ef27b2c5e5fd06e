import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import training.trainer
from model.checkpoint import load
from training.augment import AugmentConfig
from training.config import TrainConfig
from training.criterion import Criterion, LossConfig
from training.dataset import Target
from training.formats import PanopticIndex, find_coco_panoptic, read_coco_panoptic
from training.matcher import MatcherConfig
from training.nuclei import write_id_map
from training.trainer import (
    METRICS,
    RUN,
    STATE,
    Trainer,
    batch_inputs,
    learning_rate_factor,
    moving_average,
    parameter_groups,
)

SIZE = 48


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_is(monkeypatch):
    monkeypatch.setattr(training.trainer, "tune_cpu", lambda: None)


@pytest.fixture(scope="session")
def data(tmp_path_factory, categories) -> PanopticIndex:
    """A COCO panoptic set of four images: bright and dark discs on two halves of ground and glass."""
    folder = tmp_path_factory.mktemp("discs")
    (folder / "annotations" / "panoptic_train").mkdir(parents=True)
    (folder / "images" / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    images, annotations = [], []
    for number in range(4):
        id_map = np.where(x < SIZE // 2, 1, 2).astype(np.int32)
        category_of = {1: 7, 2: 9}
        for segment in range(3, 6):
            centre_y, centre_x, radius = rng.uniform(8, 40), rng.uniform(8, 40), rng.uniform(4, 8)
            id_map[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = segment
            category_of[segment] = 3 if segment % 2 else 1
        shade = np.array([0, 60, 90, 220, 150, 250])[id_map] + rng.integers(-5, 5, (SIZE, SIZE))
        name = f"{number}.png"
        cv2.imwrite(str(folder / "images" / "train" / name), shade.clip(0, 255).astype(np.uint8))
        write_id_map(folder / "annotations" / "panoptic_train" / name, id_map)
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        segments = [
            {
                "id": i,
                "category_id": category_of[i],
                "area": int((id_map == i).sum()),
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
            }
            for i in np.unique(id_map).tolist()
        ]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    listed = [{"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.colour} for c in categories]
    document = {"categories": listed, "images": images, "annotations": annotations}
    (folder / "annotations" / "panoptic_train.json").write_text(json.dumps(document))
    return read_coco_panoptic(*find_coco_panoptic(folder, "train"))


@pytest.fixture
def run_config(seeded_config, data) -> TrainConfig:
    return TrainConfig(
        model=dataclasses.replace(seeded_config, categories=data.categories),
        loss=LossConfig(
            mask_normaliser="area",
            rank_balanced=True,
            stuff_mask_weight=1.0,
            seg_loss="cross_entropy_dice",
            matcher=MatcherConfig(mask_cost="cross_entropy"),
        ),
        augment=AugmentConfig(crop_size=32),
        pretrained=False,
        steps=6,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=2,
        ema_decay=0.5,
        forced_seeds_until=0.9,
        save_every=2,
    )


class Recorded(Trainer):
    """Keeps the terms of every step; `dies_at` stands for a kill in the middle of that step."""

    def __init__(self, *args, dies_at=None):
        super().__init__(*args)
        self.dies_at, self.steps = dies_at, {}

    def _train_step(self, images, targets):
        if self.step == self.dies_at:
            raise KeyboardInterrupt
        self.steps[self.step] = super()._train_step(images, targets)
        return self.steps[self.step]


def train(config, data, out, **kwargs):
    trainer = Recorded(config, data.records, data.records[:2], out, **kwargs)
    trainer.run()
    return trainer


def state_of(folder):
    return torch.load(folder / STATE, weights_only=True)


def test_a_run_leaves_a_checkpoint_with_its_scores(run_config, data, tmp_path):
    trainer = train(run_config, data, tmp_path)
    assert sorted(trainer.steps) == list(range(6))
    assert all(math.isfinite(value) for terms in trainer.steps.values() for value in terms.values())
    network, averaged = load(tmp_path), trainer.averaged()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), averaged.parameters(), strict=True))
    assert not any(
        torch.equal(a, b)
        for a, b in zip(network.neck.fpn.parameters(), trainer.network.neck.fpn.parameters(), strict=True)
    )
    assert json.loads((tmp_path / METRICS).read_text())["step"] == 6
    assert json.loads((tmp_path / RUN).read_text()) == json.loads(run_config.to_json())


def test_a_killed_run_resumes_as_if_it_had_not_been(run_config, data, tmp_path):
    whole = train(run_config, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(run_config, data, tmp_path / "killed", dies_at=5)
    assert state_of(tmp_path / "killed")["step"] == 4
    # What a kill while writing leaves behind.
    (tmp_path / "killed" / f"{STATE}.part").write_bytes(b"torn")
    resumed = train(run_config, data, tmp_path / "killed")
    assert resumed.steps == {step: whole.steps[step] for step in (4, 5)}
    ours, expected = load(tmp_path / "killed").state_dict(), load(tmp_path / "whole").state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_learned_network_trains_and_resumes_too(run_config, learned_config, data, tmp_path):
    model = dataclasses.replace(learned_config, categories=data.categories)
    config = dataclasses.replace(run_config, model=model, loss=LossConfig(), steps=3)
    whole = train(config, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "killed", dies_at=2)
    resumed = train(config, data, tmp_path / "killed")
    assert resumed.steps == {2: whole.steps[2]}


def test_a_finished_run_trains_no_further(run_config, data, tmp_path):
    train(run_config, data, tmp_path)
    assert train(run_config, data, tmp_path).steps == {}


@pytest.mark.parametrize(("change", "field"), [({"learning_rate": 2e-3}, "learning_rate"), ({"steps": 7}, "steps")])
def test_a_folder_of_another_configuration_is_refused(run_config, data, tmp_path, change, field):
    with pytest.raises(KeyboardInterrupt):
        train(run_config, data, tmp_path, dies_at=3)
    with pytest.raises(ValueError, match=rf"{tmp_path} holds a run that differs in {field}; .*another folder"):
        train(dataclasses.replace(run_config, **change), data, tmp_path)
    assert state_of(tmp_path)["step"] == 2


def test_a_run_may_resume_with_another_rhythm_of_saving(run_config, data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(run_config, data, tmp_path, dies_at=3)
    assert sorted(train(dataclasses.replace(run_config, save_every=1), data, tmp_path).steps) == [2, 3, 4, 5]


def test_the_average_forgets_the_start_soon_and_then_by_its_decay():
    average, value = torch.tensor([0.0]), torch.tensor([1.0])
    assert float(moving_average(0.999, average, value, 1)) == pytest.approx(1 - 2 / 11)
    assert float(moving_average(0.999, average, value, 10**6)) == pytest.approx(0.001)
    assert float(moving_average(0.5, average, value, 10**6)) == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(run_config, data, tmp_path):
    trainer = Recorded(run_config, data.records, data.records[:1], tmp_path)

    class Broken(Criterion):
        def __call__(self, output, truth):
            terms = super().__call__(output, truth)
            return terms | {"s1_dice": terms["s1_dice"] * math.nan} if trainer.step == 3 else terms

    trainer.criterion = Broken(run_config.model, run_config.loss)
    with pytest.raises(FloatingPointError, match=r"not finite at step 3: .*'s1_dice': nan"):
        trainer.run()
    state = state_of(tmp_path)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(run_config):
    config = dataclasses.replace(run_config, steps=110, warmup_steps=10, final_factor=0.02)
    factors = [learning_rate_factor(step, config) for step in range(111)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[60] == pytest.approx(0.51)
    assert factors[110] == pytest.approx(0.02)
    assert all(earlier > later for earlier, later in itertools.pairwise(factors[10:]))


def test_the_optimiser_uses_the_schedule(run_config, data, tmp_path):
    trainer = train(run_config, data, tmp_path)
    last = learning_rate_factor(5, run_config)
    rates = sorted({group["lr"] for group in trainer.optimizer.param_groups})
    assert rates == pytest.approx([1e-3 * last * run_config.backbone_factor, 1e-3 * last])


def test_vectors_do_not_decay_and_the_backbone_learns_more_slowly(run_config, data, tmp_path):
    network = Trainer(run_config, data.records, data.records, tmp_path).network
    groups = parameter_groups(network, run_config)
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in network.parameters()}
    assert len(grouped) == len(list(network.parameters()))
    backbone = {id(p) for p in network.backbone.parameters()}
    for group in groups:
        for p in group["params"]:
            assert (group["weight_decay"] > 0) == (p.ndim > 1)
            assert group["base_lr"] == pytest.approx(1e-3 * (0.25 if id(p) in backbone else 1))


def test_true_centres_are_forced_ever_more_rarely_and_the_same_every_time(run_config, data, tmp_path):
    config = dataclasses.replace(run_config, steps=100, forced_seeds_until=0.5)
    trainer = Trainer(config, data.records, data.records, tmp_path)
    truth = SimpleNamespace(centres=torch.ones(64, 64, dtype=torch.bool))
    share = []
    for step in (0, 10, 25, 49):
        trainer.step = step
        forced = trainer._forced_seeds([truth])
        assert torch.equal(forced, trainer._forced_seeds([truth]))
        share.append(float(forced.float().mean()))
    assert share == pytest.approx([1, 0.8, 0.5, 0.02], abs=0.03)  # 4096 draws
    trainer.step = 50
    assert trainer._forced_seeds([truth]) is None


def test_network_inputs_are_normalised_content_on_a_ground_of_0(run_config):
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    nothing = torch.zeros(0, 32, 32, dtype=torch.bool)
    targets = [
        Target(
            masks=nothing,
            class_index=torch.zeros(0, dtype=torch.int64),
            valid_size=size,
            pixel_mean=mean,
            pixel_std=9.0,
        )
        for size, mean in (((32, 32), 100.0), ((20, 9), 50.0))
    ]
    pixels, valid = batch_inputs(images, targets, run_config)
    assert (pixels[0] == 0).all()
    torch.testing.assert_close(pixels[1, :, :20, :9], torch.full((3, 20, 9), math.asinh(5.0)))
    assert (pixels[1, :, 20:] == 0).all()
    assert (pixels[1, :, :, 9:] == 0).all()
    assert valid.shape == (2, 1, 16, 16)
    assert valid[0].all()
    assert valid[1, 0].nonzero().amax(dim=0).tolist() == [9, 4]


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("precision", "fp8", "fp32, bf16"),
        ("steps", 0, "1 and above"),
        ("batch_size", 0, "1 and above"),
        ("learning_rate", 0.0, "above 0"),
        ("clip_norm", math.nan, "above 0"),
        ("ema_decay", 1.0, "0 up to, not including, 1"),
    ],
)
def test_an_illegal_configuration_is_refused(run_config, name, value, legal):
    with pytest.raises(ValueError, match=rf"{name} is .*legal: {legal}"):
        dataclasses.replace(run_config, **{name: value})
