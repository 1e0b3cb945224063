"""Reports of studies that share runs: simulated records whose effects are known."""

import json

import pytest

from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.grid import create_study_dir
from tests.report.asked_study import AskedStudy, asking

CONTRAST = {"groups": {"factorised": ["fwm_ld"], "plain": ["ld"]}, "baseline": True}


@pytest.fixture
def runs(tmp_path):
    """The runs of a study ``asked`` with records of one benchmark, on which fwm is better."""
    accuracy = AskedStudy(tmp_path / "runs", lambda config, condition: 0.5 + 0.15 * ("fwm" in config.variant))
    accuracy.write(asking(CONTRAST))
    return accuracy


def sharing(**changes):
    """The study ``again``, which reuses the runs of ``asked``."""
    return asking(CONTRAST, **changes).model_copy(update={"study": "again", "reuse": ("asked",)})


def collect(*folders):
    return collect_run_data(find_runs(folders), folders)


def numbers(answer):
    """What the answer says about each comparison."""
    return {
        (each.name, str(each.column)): (each.contrast.points, each.contrast.p_value, each.contrast.adjusted)
        for each in answer.contrasts
    }


def test_a_study_of_reused_runs_has_the_answer_of_the_study_that_trained_them(runs):
    again = create_study_dir(sharing(), runs.root).path
    (own,), (other,) = collect(runs.root / "asked").answers, collect(again).answers
    assert (own.study, other.study) == ("asked", "again")
    assert numbers(own) == numbers(other) and own.family == other.family == 3
    data = collect(again)
    assert {row.study for row in data.rows} == {"again"} and data.gaps == collect(runs.root / "asked").gaps
    assert {source.path for source in data.sources.values()} == {*(runs.root / "asked").glob("*/*/*/eval/*.json")}


def test_what_another_study_evaluates_changes_no_answer(runs):
    alone = collect(runs.root / "asked")
    before = numbers(alone.answers[0])
    again = runs.write(sharing(benchmarks=("motion8_linear", "digits_linear")))
    assert not [*again.glob("*/*/seed-*")]  # all its records are in the runs of the other study
    data = collect(runs.root / "asked")
    assert numbers(data.answers[0]) == before and {row.benchmark for row in data.rows} == {"motion8_linear"}
    assert data.gaps == alone.gaps
    assert collect(again).answers[0].family == 2 * len(before)
    both = collect(runs.root / "asked", again)
    assert [numbers(answer) for answer in both.answers] == [before, numbers(collect(again).answers[0])]
    StudyDir(again).config_file.unlink()  # without it nobody knows who asked for those records
    assert {row.benchmark for row in collect(runs.root / "asked").rows} == {"motion8_linear", "digits_linear"}


def test_the_metric_of_a_record_is_that_of_its_own_study(runs):
    again = create_study_dir(sharing(), runs.root).path
    for path in (runs.root / "asked").glob("*/*/*/eval/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"decides": "mean_class_accuracy"}))
    own, other = ([grid.metrics for grid in collect(folder).grids] for folder in (runs.root / "asked", again))
    assert len(own) == len(other) == 1 and own[0] and not other[0]
