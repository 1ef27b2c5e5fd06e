import csv
import dataclasses
import json
import math

import pytest
import torch

import training.learner
from model.checkpoint import WEIGHTS, load
from training.checkpoints import METRICS
from training.criterion import Criterion
from training.loss_config import LossConfig
from training.provenance import PROVENANCE
from training.run_log import LOG
from training.train_state import PREVIOUS, STATE, load_state
from training.trainer import RUN, Trainer


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_is(monkeypatch):
    monkeypatch.setattr(training.learner, "tune_cpu", lambda: None)


@pytest.fixture
def run_config(tiny_run, discs):
    return tiny_run.config_for(tiny_run.read(discs))


class Dying(Trainer):
    """`dies_at` stands for a kill in the middle of that step; test_killed_runs.py has real ones."""

    def __init__(self, *args, dies_at=None):
        super().__init__(*args)
        self.dies_at, self.taken = dies_at, []

    def _train_step(self, batches):
        if self.step == self.dies_at:
            raise KeyboardInterrupt
        self.taken.append(self.step)
        return super()._train_step(batches)


@pytest.fixture
def train(tiny_run, discs):
    def run(config, out, dies_at=None):
        trainer = tiny_run.trainer_for(config, discs, out, Dying, dies_at=dies_at)
        trainer.run()
        return trainer

    return run


def rows_of(out):
    """The log without what depends on the clock."""
    with (out / LOG).open() as file:
        return [
            {name: value for name, value in row.items() if name not in ("seconds", "images_per_second", "memory_gb")}
            for row in csv.DictReader(file)
        ]


def state_of(out):
    return load_state(out)[0]


def test_a_run_leaves_the_averaged_network_and_all_that_decided_it(run_config, train, tmp_path):
    trainer = train(run_config, tmp_path)
    averaged = trainer.averaged()
    for folder in (tmp_path, tmp_path / "last"):
        network = load(folder)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), averaged.parameters(), strict=True))
    trained = trainer.learner.network.neck.fpn.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(network.neck.fpn.parameters(), trained, strict=True))
    assert json.loads((tmp_path / METRICS).read_text())["step"] == 6
    assert json.loads((tmp_path / RUN).read_text()) == json.loads(run_config.to_json())
    (start,) = json.loads((tmp_path / PROVENANCE).read_text())["starts"]
    assert start["at_step"] == 0
    assert start["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert (tmp_path / "pages" / "step_000006.png").exists()
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_run_that_died_resumes_as_if_it_had_not(run_config, train, tmp_path):
    train(run_config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(run_config, tmp_path / "died", dies_at=5)
    assert state_of(tmp_path / "died")["step"] == 4
    # What a kill while writing leaves behind.
    (tmp_path / "died" / f"{STATE}.part").write_bytes(b"torn")
    with (tmp_path / "died" / LOG).open("a") as file:
        file.write("6,0.3")
    assert train(run_config, tmp_path / "died").taken == [4, 5]
    assert rows_of(tmp_path / "died") == rows_of(tmp_path / "whole")
    ours, expected = load(tmp_path / "died").state_dict(), load(tmp_path / "whole").state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    starts = json.loads((tmp_path / "died" / PROVENANCE).read_text())["starts"]
    assert [start["at_step"] for start in starts] == [0, 4]


@pytest.mark.parametrize("kind", ["panoptic", "instance", "semantic"])
def test_the_other_kinds_train_and_resume_too(kind, run_config, tiny_run, train, tmp_path):
    model = tiny_run.other_models(run_config.model.categories)[kind]
    if kind == "semantic":
        model = dataclasses.replace(model, dropout=0.1)  # drawn anew in each step, and the same after a resume
    # Batch norm of few cells blows up the last digits, in which processors may differ from one call to the next.
    crops = dataclasses.replace(run_config.augment, crop_size=64)
    config = dataclasses.replace(run_config, model=model, loss=LossConfig(), augment=crops, steps=3, save_every=1)
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "died", dies_at=2)
    train(config, tmp_path / "died")
    assert rows_of(tmp_path / "died") == rows_of(tmp_path / "whole")


def test_micro_batches_see_the_samples_of_the_whole_batch(run_config, train, tmp_path):
    frozen = dataclasses.replace(run_config, batch_norm="frozen", steps=2)
    train(frozen, tmp_path / "whole")
    train(dataclasses.replace(frozen, accumulate=2), tmp_path / "parts")
    whole, parts = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    # Means over all pixels do not depend on how a batch is divided; those over objects do.
    assert [float(row["head_seg"]) for row in parts] == pytest.approx([float(row["head_seg"]) for row in whole], 1e-4)


@pytest.mark.parametrize("changes", [{"checkpoint_activations": True}, {"precision": "bf16"}, {"workers": 1}])
def test_options_of_speed_and_memory_change_little(changes, run_config, train, tmp_path):
    config = dataclasses.replace(run_config, steps=2)
    train(config, tmp_path / "plain")
    train(dataclasses.replace(config, **changes), tmp_path / "changed")
    plain, changed = (float(rows_of(tmp_path / name)[0]["total"]) for name in ("plain", "changed"))
    assert changed == pytest.approx(plain, rel=0.1 if "precision" in changes else 1e-5)  # bf16 has 8 bits


def test_a_finished_run_trains_no_further(run_config, train, tmp_path):
    train(run_config, tmp_path)
    assert train(run_config, tmp_path).taken == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"learning_rate": 2e-3}, "learning_rate"),
        ({"steps": 7}, "steps"),
        ({"loss": LossConfig(rank_weight=0.5)}, "loss.rank_weight, loss.mask_normaliser"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(run_config, train, tmp_path, change, field):
    with pytest.raises(KeyboardInterrupt):
        train(run_config, tmp_path, dies_at=3)
    with pytest.raises(
        ValueError, match=rf"{tmp_path} holds a run that differs in {field}.*another --out, with --from"
    ):
        train(dataclasses.replace(run_config, **change), tmp_path)
    assert state_of(tmp_path)["step"] == 2


def test_a_run_on_other_images_is_refused(run_config, train, tiny_run, discs, tmp_path):
    train(dataclasses.replace(run_config, steps=2, save_every=1), tmp_path)
    index = tiny_run.read(discs)
    fewer = dataclasses.replace(index, records=index.records[:3])
    config = dataclasses.replace(run_config, steps=2, save_every=1)
    with pytest.raises(ValueError, match="on other training images"):
        Trainer(config, fewer, index, tmp_path, tiny_run.launched(config))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_without_a_traceback(workers, run_config, train, tiny_run, tmp_path):
    data = tiny_run.write_discs(tmp_path / "data")
    config = dataclasses.replace(run_config, workers=workers)
    trainer = tiny_run.trainer_for(config, data, tmp_path / "run")
    for image in (data / "images" / "train").iterdir():
        image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"^\S+\.png: the image is truncated") as caught:
        trainer.run()
    assert "Traceback" not in str(caught.value)


def test_a_finished_run_says_so_and_how_to_go_on(run_config, train, tmp_path, capsys):
    train(dataclasses.replace(run_config, steps=1), tmp_path)
    capsys.readouterr()
    train(dataclasses.replace(run_config, steps=1), tmp_path)
    assert f"is finished, at step 1; to train on from its weights: another --out, with --from {tmp_path}" in (
        capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    )


def test_a_run_may_resume_with_another_rhythm_of_saving(run_config, train, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(run_config, tmp_path, dies_at=3)
    assert train(dataclasses.replace(run_config, save_every=1), tmp_path).taken == [2, 3, 4, 5]


def test_an_evaluation_that_a_kill_cut_off_is_made_when_the_run_resumes(run_config, train, tmp_path):
    config = dataclasses.replace(run_config, evaluate_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, dies_at=2)
    (tmp_path / "last" / METRICS).unlink()
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, dies_at=2)
    assert json.loads((tmp_path / "last" / METRICS).read_text())["step"] == 2


def test_a_loss_that_is_not_finite_stops_the_run_names_the_images_and_is_not_saved(
    run_config, tiny_run, discs, tmp_path
):
    trainer = tiny_run.trainer_for(run_config, discs, tmp_path)

    class Broken(Criterion):
        def __call__(self, output, truth, generator=None):
            terms = super().__call__(output, truth, generator)
            return terms | {"s1_dice": terms["s1_dice"] * math.nan} if trainer.step == 3 else terms

    trainer.learner.module.module.criterion = Broken(run_config.model, run_config.loss)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite at step 3: .*'s1_dice': nan.*images/train/"):
        trainer.run()
    state = state_of(tmp_path)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_too(run_config, tiny_run, discs, tmp_path):
    trainer = tiny_run.trainer_for(run_config, discs, tmp_path)
    weight = trainer.learner.network.kernel_head.conv_seg.weight
    weight.register_hook(lambda gradient: gradient * (math.inf if trainer.step == 1 else 1))
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite at step 1.*images/train/"):
        trainer.run()
    assert weight.isfinite().all()


def test_a_run_whose_newest_state_is_damaged_saves_what_it_does_again(run_config, train, tmp_path):
    train(run_config, tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:1000])
    assert train(run_config, tmp_path).taken == [4, 5]
    assert load_state(tmp_path)[1] == []
    assert state_of(tmp_path)["step"] == 6


def test_a_folder_of_scores_without_a_state_is_refused(run_config, train, tmp_path):
    train(run_config, tmp_path)
    weights = (tmp_path / WEIGHTS).read_bytes()
    for name in (STATE, PREVIOUS):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"holds the checkpoints of a run, and no state.* another --out"):
        train(dataclasses.replace(run_config, learning_rate=1e-4), tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == weights
