"""The learning rate over a run."""

import math

from training.config import TrainConfig

_STEP_FACTOR = 0.1


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """What the learning rate is multiplied by in a step, counted from 0: linear warm-up, then cosine or steps; 0..1."""
    factor = _after_warmup(step, config)
    if step < config.warmup_steps:
        done = step / config.warmup_steps
        factor *= config.warmup_factor + (1 - config.warmup_factor) * done
    return factor


def _after_warmup(step: int, config: TrainConfig) -> float:
    if config.schedule == "steps":
        return float(_STEP_FACTOR ** sum(step >= at for at in config.decay_at))
    done = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_factor + (1 - config.final_factor) * 0.5 * (1 + math.cos(math.pi * done))
