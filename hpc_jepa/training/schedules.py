"""Learning-rate, weight-decay and EMA schedules as pure functions of the step: resuming needs no scheduler state."""

import math
from typing import NamedTuple

from hpc_jepa.config.training import ScheduleConfig


class ScheduleValues(NamedTuple):
    """Scheduled hyperparameters of one step. ``ema``: momentum of the target encoder."""

    learning_rate: float
    weight_decay: float
    ema: float


def schedule_values_at(step: int, schedule: ScheduleConfig) -> ScheduleValues:
    """Learning rate, weight decay (half cosine) and EMA momentum (linear) of ``step``, counted from 0."""
    progress = step / schedule.steps if schedule.steps else 0.0
    return ScheduleValues(
        learning_rate=learning_rate_at(step, schedule),
        weight_decay=_cosine(progress, schedule.weight_decay, schedule.weight_decay_final),
        ema=schedule.ema_start + progress * (schedule.ema_final - schedule.ema_start),
    )


def learning_rate_at(step: int, schedule: ScheduleConfig) -> float:
    """Linear from ``lr_start`` to ``lr`` over the warm-up, then a half cosine to ``lr_final``."""
    warmup = int(schedule.warmup * schedule.steps)
    if step < warmup:
        return schedule.lr_start + step / warmup * (schedule.lr - schedule.lr_start)
    return _cosine((step - warmup) / max(schedule.steps - warmup, 1), schedule.lr, schedule.lr_final)


def _cosine(progress: float, start: float, end: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
