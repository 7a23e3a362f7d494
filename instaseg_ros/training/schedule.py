"""Computes the learning rate of each step."""

from __future__ import annotations

import math

from instaseg_ros.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, elapsed_s: float = 0.0) -> float:
    """Linear warm-up, then a cosine or the published polynomial down to zero at the last step, or,
    with `train.seconds`, when these are over.

    elapsed_s: since the training's first step.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.seconds:
        done = min(1.0, elapsed_s / config.seconds)
    if config.schedule == "poly":
        return config.learning_rate * (1 - done) ** 0.9
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def is_last(config: TrainConfig, done: int, elapsed_s: float) -> bool:
    """Whether a training ends after `done` steps, the last of which began at `elapsed_s`."""
    return elapsed_s >= config.seconds if config.seconds else done == config.steps
