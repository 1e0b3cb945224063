"""Learning-rate, weight-decay and EMA schedules as pure functions of the step: resuming needs no scheduler state."""

from typing import NamedTuple

from hpc_jepa.config.phases import value_at
from hpc_jepa.config.training import ScheduleConfig


class ScheduleValues(NamedTuple):
    """Scheduled hyperparameters of one step. ``ema``: momentum of the target encoder."""

    learning_rate: float
    weight_decay: float
    ema: float


def schedule_values_at(step: int, schedule: ScheduleConfig) -> ScheduleValues:
    """Learning rate, weight decay and EMA momentum of ``step``, counted from 0."""
    return ScheduleValues(
        learning_rate=value_at(schedule.learning_rate, step),
        weight_decay=value_at(schedule.decay, step),
        ema=value_at(schedule.momentum, step),
    )
