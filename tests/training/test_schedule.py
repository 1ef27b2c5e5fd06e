import dataclasses
import itertools
import math

import pytest

from training.schedule import learning_rate_factor


@pytest.fixture
def run_config(tiny_run, discs):
    return tiny_run.config_for(tiny_run.read(discs))


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(run_config):
    config = dataclasses.replace(run_config, steps=110, warmup_steps=10, warmup_factor=0.01, final_factor=0.02)
    factors = [learning_rate_factor(step, config) for step in range(111)]
    assert factors[:10] == pytest.approx([0.01 + 0.099 * i for i in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[60] == pytest.approx(0.51)
    assert factors[110] == pytest.approx(0.02)
    assert all(earlier > later for earlier, later in itertools.pairwise(factors[10:]))


def test_the_papers_schedule_falls_to_a_tenth_twice(run_config):
    config = dataclasses.replace(
        run_config, steps=120, warmup_steps=4, warmup_factor=0.001, schedule="steps", decay_at=(80, 110)
    )
    factors = [learning_rate_factor(step, config) for step in (0, 2, 4, 79, 80, 109, 110, 119)]
    assert factors == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("precision", "fp8", "fp32, bf16, fp16"),
        ("schedule", "linear", "cosine, steps"),
        ("decay_at", (3,), "some with schedule steps, else none"),
        ("decay_at", (3, 2), "numbers of steps, each above the one before"),
        ("batch_norm", "off", "synchronised, per_process, frozen"),
        ("accumulate", 4, r"divisors of batch_size \(2\)"),
        ("workers", -1, "0 and above"),
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


def test_a_crop_must_hold_the_coarsest_cell_and_the_seeds(run_config):
    for size in (40, 0x20):
        model = dataclasses.replace(run_config.model, num_training_kernels=300, num_kernels=300, canvas_sizes=(64,))
        augment = dataclasses.replace(run_config.augment, crop_size=size)
        with pytest.raises(ValueError, match="a multiple of 32 with at least 300 cells of 2 pixels"):
            dataclasses.replace(run_config, model=model, augment=augment)
