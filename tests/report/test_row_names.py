"""What each row of a study is compared with, by its phase, its settings and the baseline that the study declares."""

import pytest

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.row_names import RowNames

PHASES = [{"name": "main"}, {"name": "cooldown", "after": "main"}]
ARMS = [{"objective": "baseline", "name": "scratch"}, {"objective": "baseline", "name": "continued"}]


def names(**settings):
    return RowNames.of(StudyConfig.model_validate({"study": "s", "regimes": ["r"], **settings}))


def test_without_phases_and_axes_every_row_is_compared_with_baseline():
    plain = RowNames()
    assert plain.reference("baseline") is None
    assert plain.reference("fwm") == plain.reference("random_init") == plain.reference("a.b") == "baseline"
    assert plain.phase("fwm") == plain.phase("a.main") == ""


def test_rows_are_compared_within_their_phase():
    pilot = names(variants=ARMS, phases=PHASES, baseline="scratch")
    assert pilot.reference("continued.main") == "scratch.main"
    assert pilot.reference("continued.cooldown") == "scratch.cooldown"
    assert pilot.reference("scratch.main") is None and pilot.reference("scratch.cooldown") is None
    assert pilot.reference("random_init") == "scratch.cooldown"
    rows = ["continued.main", "scratch.main", "continued.cooldown", "scratch.cooldown"]
    assert sorted(rows, key=pilot.order) == ["scratch.cooldown", "continued.cooldown", "scratch.main", "continued.main"]


def test_settings_of_a_variant_alone_are_not_those_of_a_baseline():
    variants = ["baseline", {"objective": "fwm", "overrides": ["schedule.weight_decay=0.1"]}]
    assert names(variants=variants, phases=PHASES).reference("fwm.weight_decay-0.1.main") == "baseline.main"


def test_rows_of_an_axis_are_compared_with_the_same_values():
    sweep = names(variants=["baseline", "fwm", "fwm_ld"], axes={"schedule.lr": [0.1, 0.2]}, phases=PHASES)
    assert sweep.reference("fwm.lr-0.1.main") == "baseline.lr-0.1.main"
    assert sweep.reference("fwm_ld.lr-0.2.cooldown") == "baseline.lr-0.2.cooldown"
    assert sweep.reference("baseline.lr-0.2.main") is None


def test_a_declared_baseline_must_be_a_variant(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("study: s\nregimes: [r]\nvariants: [baseline, fwm]\nbaseline: scratch\n")
    with pytest.raises(InputError, match=r"study\.yaml:4: baseline: .*scratch.*fwm"):
        read_config(StudyConfig, [file])
