"""Schedules at steps where their values are known."""

import math

import pytest

from hpc_jepa.config.training import ScheduleConfig
from hpc_jepa.objectives import build_objective
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.types import TokenGrid

PAPER = ScheduleConfig()


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1e-4), (1, 1e-4 + 5e-4 / 300), (150, 3.5e-4), (300, 6e-4), (29_999, 6e-4)]
)
def test_the_published_learning_rate(step, rate):
    assert schedule_values_at(step, PAPER).learning_rate == pytest.approx(rate)


def test_published_weight_decay_and_momentum_are_constant():
    assert {schedule_values_at(step, PAPER)[1:] for step in (0, 100, 15_000, 29_999)} == {(0.04, 0.99925)}


def test_the_cosine_is_half_way_at_half_time():
    schedule = ScheduleConfig(steps=1000, warmup=0.0, lr=1.0, lr_final=0.0)
    assert schedule_values_at(500, schedule).learning_rate == pytest.approx(0.5)
    assert schedule_values_at(250, schedule).learning_rate == pytest.approx(0.5 + 0.5 * math.sqrt(0.5))


@pytest.mark.parametrize(
    ("semantics", "steps", "step", "weight"),
    [
        ("published", 30_000, 14_999, 0.0),
        ("published", 30_000, 22_500, 0.25),
        ("published", 30_000, 29_999, 0.5 * 14_999 / 15_000),
        ("published", 5_000, 4_999, 0.0),
        ("published", 60_000, 45_000, 0.5),
        ("corrected", 5_000, 2_500, 0.0),
        ("corrected", 5_000, 3_750, 0.25),
        ("corrected", 5_000, 5_000, 0.5),
    ],
)
def test_the_context_weight_rises_over_its_ramp(semantics, steps, step, weight):
    objective = build_objective(
        "baseline", width=8, levels=4, grid=TokenGrid(4, 4, 4), semantics=semantics, steps=steps
    )
    assert objective.weights(step)["context"] == pytest.approx(weight)
