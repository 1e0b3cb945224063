"""Schedules at steps where their values are known, and those of release 0.1 at every step."""

import math

import pytest

from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.phases import value_at
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.training import ScheduleConfig
from hpc_jepa.errors import InputError
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


OLD = [
    {},
    {
        "steps": 3900,
        "warmup": 0.1,
        "lr_start": 0.0,
        "lr": 1e-3,
        "lr_final": 5e-5,
        "ema_start": 0.97,
        "ema_final": 0.995,
    },
    {"steps": 251, "warmup": 0.0, "weight_decay": 0.04, "weight_decay_final": 0.4, "context_weight": 0.3},
    {"steps": 77, "warmup": 1.0, "lr_final": 0.0, "ema_start": 0.9, "ema_final": 1.0},
    {"steps": 1},
]


def _cosine(progress, start, end):
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _of_release_0_1(schedule, semantics, step):
    """Learning rate, weight decay, momentum and context weight, as release 0.1 computed them."""
    steps, warmup = schedule.steps, int(schedule.warmup * schedule.steps)
    if step < warmup:
        rate = schedule.lr_start + step / warmup * (schedule.lr - schedule.lr_start)
    else:
        rate = _cosine((step - warmup) / max(steps - warmup, 1), schedule.lr, schedule.lr_final)
    start, end = (15_000, 30_000) if semantics == "published" else (0.5 * steps, 1.0 * steps)
    return (
        rate,
        _cosine(step / steps, schedule.weight_decay, schedule.weight_decay_final),
        schedule.ema_start + step / steps * (schedule.ema_final - schedule.ema_start),
        schedule.context_weight * min(max((step - start) / (end - start), 0.0), 1.0),
    )


@pytest.mark.parametrize("semantics", ["published", "corrected"])
@pytest.mark.parametrize("keys", OLD, ids=str)
def test_the_old_keys_give_the_numbers_of_release_0_1_to_the_bit(keys, semantics):
    schedule = ScheduleConfig(**keys)
    ramps = schedule.context_ramps(semantics)
    for step in range(schedule.steps):
        now = (*schedule_values_at(step, schedule), value_at(ramps, step))
        assert now == _of_release_0_1(schedule, semantics, step), step


@pytest.mark.parametrize("steps", [250, 251, 3900])
def test_lists_of_phases_can_say_the_same(steps):
    old = ScheduleConfig(steps=steps, warmup=0.1, lr_start=0.0, lr=1e-3, lr_final=5e-5, ema_start=0.97)
    new = ScheduleConfig(
        steps=steps,
        phases={
            "lr": [
                {"initial": 0.0, "final": 1e-3, "end": int(0.1 * steps)},
                {"shape": "cosine", "final": 5e-5},
            ],
            "ema": {"initial": 0.97, "final": 0.99925},
            "context_weight": [0, {"initial": 0, "final": 0.5, "start": "50%"}],
            "weight_decay": 0.04,
        },
    )
    for step in range(steps):
        assert schedule_values_at(step, new) == schedule_values_at(step, old)
        contexts = [value_at(schedule.context_ramps("corrected"), step) for schedule in (old, new)]
        assert contexts[0] == contexts[1]


@pytest.mark.parametrize("name", ["published", "corrected"])
def test_the_ramps_have_names(name):
    named = ScheduleConfig(steps=40_000, context_weight=0.3, phases={"context_weight": name})
    other = {"published": "corrected", "corrected": "published"}[name]
    assert named.context_ramps(other) == ScheduleConfig(steps=40_000, context_weight=0.3).context_ramps(name)


PILOT = """
    lr:
      - {initial: 1.0e-5, final: 4.375e-5, end: 450}
    ema: 0.99925
    context_weight:
      - {initial: 0, final: 0.5, start: 200, end: 400}
"""


def _read(folder, phases, *overrides):
    file = folder / "run.yaml"
    file.write_text(f"regime: a\ndata: {{sources: {{none: {{shards: none}}}}}}\nschedule:\n  phases:{phases}")
    return read_config(RunConfig, [file], overrides)


def test_values_hold_between_and_after_phases(tmp_path):
    config = _read(tmp_path, PILOT, "schedule.steps=3900")
    rates = {step: schedule_values_at(step, config.schedule).learning_rate for step in (0, 225, 450, 3899)}
    assert rates == pytest.approx({0: 1e-5, 225: 2.6875e-5, 450: 4.375e-5, 3899: 4.375e-5}, rel=1e-12)
    assert rates[450] == rates[3899] == 4.375e-5
    weights = [value_at(config.context_ramps, step) for step in (0, 199, 200, 300, 400, 3899)]
    assert weights == [0, 0, 0, 0.25, 0.5, 0.5]


def test_a_written_configuration_reads_back(tmp_path):
    config = _read(tmp_path, PILOT)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert read_config(RunConfig, [tmp_path / "again.yaml"]) == config
    assert config.fingerprint() != _read(tmp_path, " {}").fingerprint()


@pytest.mark.parametrize(
    ("phases", "line", "key"),
    [
        ("\n    lr:\n      - {initial: 0, final: 1, end: 450}\n      - {final: 0, start: 449}", 7, "lr.1.start"),
        ("\n    lr:\n      - {initial: 0, final: 1, start: 2%, end: 599}", 6, "lr.0.end"),
        ("\n    lr:\n      - {initial: 0, final: 1, start: 5, end: 5}", 6, "lr.0.end"),
        ("\n    lr:\n      - {final: 1}", 6, "lr.0.initial"),
        ("\n    lr:\n      - 0.5\n      - {final: 1}", 6, "lr.0.end"),
        ("\n    lr:\n      - {initial: 0, final: 1, end: 0.5}", 6, "lr.0.end"),
        ("\n    lr:\n      - {initial: 0, final: 1, end: 101%}", 6, "lr.0.end"),
        ("\n    lr:\n      - {initial: 0, finale: 1}", 6, "lr.0.finale"),
        ("\n    lr: []", 5, "lr"),
        ("\n    ema:\n      - 1.5", 6, "ema.0.value"),
        ("\n    context_weight: publish", 5, "context_weight"),
    ],
)
def test_wrong_phases_are_refused_with_file_line_and_key(tmp_path, phases, line, key):
    with pytest.raises(InputError, match=rf"run.yaml:{line}: schedule.phases.{key}: "):
        _read(tmp_path, phases)


def test_a_list_beside_the_key_that_it_replaces_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"schedule.phases.lr: .*schedule.warmup"):
        _read(tmp_path, PILOT, "schedule.warmup=0.2")
    assert _read(tmp_path, PILOT, "schedule.warmup=null").schedule.warmup == ScheduleConfig().warmup
    with pytest.raises(InputError, match=r"run.yaml:\d+: schedule.phases.ema: .*schedule.ema_final"):
        _read(tmp_path, " {ema: 0.9}\n  ema_final: 0.8")


def test_a_list_replaces_the_keys_of_the_layers_below(tmp_path):
    (tmp_path / "base.yaml").write_text("schedule: {lr: 3.0, warmup: 0.5, ema_final: 0.9, context_weight: 0.2}\n")
    (tmp_path / "run.yaml").write_text(
        f"extends: base.yaml\nregime: a\ndata: {{sources: {{none: {{shards: none}}}}}}\nschedule:\n  phases:{PILOT}"
    )
    read = read_config(
        RunConfig, [tmp_path / "run.yaml"], ["schedule.weight_decay=3", "schedule.phases.weight_decay=1e-2"]
    )
    assert read == _read(tmp_path, PILOT, "schedule.phases.weight_decay=0.01")
    named = read_config(
        RunConfig, [tmp_path / "base.yaml", tmp_path / "run.yaml"], ["schedule.lr=0.1", "schedule.phases.lr=0.2"]
    )
    assert named.schedule.phases.lr[0].value == 0.2


@pytest.mark.parametrize("quantity", ["lr", "context_weight"])
def test_a_number_alone_is_a_constant_in_every_spelling(tmp_path, quantity):
    for spelling in ("1.0e-1", "1e-1", "0.1", "[1e-1]", "{value: 1e-1}"):
        phases = getattr(_read(tmp_path, f"\n    {quantity}: {spelling}").schedule.phases, quantity)
        assert [phase.value for phase in phases] == [0.1]


def test_a_run_of_no_steps_may_have_phases(tmp_path):
    """As ``checkpoint import`` makes one."""
    assert _read(tmp_path, PILOT, "schedule.steps=0").context_ramps


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_schedules_can_be_drawn(tmp_path, suffix):
    from hpc_jepa.report.schedule_plot import plot_schedules

    file = tmp_path / "new" / f"schedules.{suffix}"
    plot_schedules(_read(tmp_path, PILOT), file)
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert file.read_bytes().startswith(start)
    with pytest.raises(InputError, match=r"schedule\.steps"):
        plot_schedules(_read(tmp_path, PILOT, "schedule.steps=0"), file)
    with pytest.raises(InputError, match=r"words\.txt"):
        plot_schedules(_read(tmp_path, PILOT), tmp_path / "words.txt")
