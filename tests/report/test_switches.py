"""A run with a single switch has rows, cells and colours of its own beside the plain run."""

import csv
import json

import pytest

from hpc_jepa.config.study import StudyConfig
from hpc_jepa.evaluation.record import ProbeRecord, read_record
from hpc_jepa.report.write_report import write_report
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import create_study_dir

SHARES = {"plain": 0.5, "switched": 0.3, "published": 0.2}
SWITCH = {"ld_hw_gradient": False}


@pytest.fixture
def switched(write):
    runs = {
        "baseline": write.run("baseline"),
        "plain": write.run("fwm_hw_ld"),
        "switched": write.run("fwm_hw_ld", switches=SWITCH),
        "published": write.run("fwm_hw_ld", "published"),
    }
    for salt, (name, run) in enumerate(runs.items()):
        random = {"random_init": {"linear": 0.2}} if name == "baseline" else {}
        write.evaluated(run, {**random, "target": {"linear": SHARES.get(name, 0.25)}}, salt=salt)
        write.few_shot(run, {1: SHARES.get(name, 0.25)})
        write.robustness(run, 0.9, (0.8 - SHARES.get(name, 0.25), 0.5))
    return write.root / "demo"


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_grid_and_tables_have_a_row_for_each(switched):
    folder = write_report([switched]).folder
    lines = [row for row in read_csv(folder / "grid.csv") if row["task"] == "probe"]
    grid = {row["variant"]: float(row["value"]) for row in lines}
    assert grid == pytest.approx(
        {
            "random_init": 20,
            "baseline": 25,
            "fwm_hw_ld": 50,
            "fwm_hw_ld (ld_hw_gradient: false)": 30,
            "fwm_hw_ld (published)": 20,
        }
    )
    results = {
        row["semantics"]: float(row["value"])
        for row in read_csv(folder / "results.csv")
        if row["variant"] == "fwm_hw_ld" and row["task"] == "probe"
    }
    assert results == {"corrected": 50, "corrected, ld_hw_gradient: false": 30, "published": 20}
    for name in ("tables.md", "tables.tex", "results.txt", "index.html"):
        assert "ld_hw_gradient: false" in (folder / name).read_text().replace("\\_", "_"), name


def test_the_difference_is_to_the_baseline_of_the_preset(switched):
    (grid,) = write_report([switched]).data.grids
    contrasts = dict(grid.contrasts(grid.columns[0]))
    assert contrasts["fwm_hw_ld (ld_hw_gradient: false)"].reference == "baseline"
    assert contrasts["fwm_hw_ld (ld_hw_gradient: false)"].points == pytest.approx(5)


def test_a_switch_is_named_as_cause_only_where_nothing_else_differs(switched):
    data = write_report([switched]).data
    single, presets = data.comparisons
    assert (single.first, single.second) == ("fwm_hw_ld (corrected)", "fwm_hw_ld (corrected, ld_hw_gradient: false)")
    assert single.differing == ("semantics.ld_hw_gradient",) and single.values == ("true", "false")
    assert single.contrast.points == pytest.approx(20)
    assert (presets.first, presets.second) == ("fwm_hw_ld (corrected)", "fwm_hw_ld (published)")
    assert len(presets.differing) > 10 and presets.sentence is None
    (named,) = [line for line in data.headlines if "ld_hw_gradient" in line and "differ" in line]
    assert "fwm_hw_ld (corrected)" in named and "two single runs" in named and "significant" not in named
    assert not any("published" in line for line in data.headlines)
    assert [audit.source for audit in data.audits] == ["demo, corrected semantics", "demo, published semantics"]


@pytest.mark.parametrize("switched_share, verdict", [(0.3, "more accurate"), (0.7, "less accurate"), (0.5, "not sig")])
def test_a_switch_is_judged_over_all_common_seeds(write, switched_share, verdict):
    for seed in range(3):
        write.evaluated(write.run("baseline", seed=seed), {"target": {"linear": 0.25}}, salt=1)
        write.evaluated(write.run("fwm_hw_ld", seed=seed), {"target": {"linear": 0.5 + seed / 200}}, salt=2)
        run = write.run("fwm_hw_ld", seed=seed, switches=SWITCH)
        write.evaluated(run, {"target": {"linear": switched_share}}, salt=3)
    write.evaluated(write.run("fwm_hw_ld", seed=3), {"target": {"linear": 0.9}}, salt=2)
    data = write_report([write.root / "demo"]).data
    (comparison,) = data.comparisons
    assert (comparison.contrast.seeds, comparison.contrast.dropped_seeds) == (3, 1)
    assert comparison.contrast.points == pytest.approx(50.5 - 100 * switched_share, abs=0.1)
    (named,) = [line for line in data.headlines if "ld_hw_gradient" in line and "differ in" in line]
    assert verdict in named and "3 seeds" in named


def test_curves_and_robustness_keep_the_runs_apart(switched):
    data = write_report([switched]).data
    errors = {line.encoder: line.error for line in data.robustness}
    assert len(errors) == 4
    assert any("ld_hw_gradient: false" in encoder for encoder in errors)


def test_seeds_of_both_are_replicates_of_their_own_row(write):
    for seed in (0, 1):
        write.evaluated(write.run("baseline", seed=seed), {"target": {"linear": 0.25}}, salt=1)
        write.evaluated(write.run("fwm_hw_ld", seed=seed), {"target": {"linear": 0.5}}, salt=2)
        write.evaluated(write.run("fwm_hw_ld", seed=seed, switches=SWITCH), {"target": {"linear": 0.3}}, salt=3)
    (grid,) = write_report([write.root / "demo"]).data.grids
    cells = {row: grid.cell(row, grid.columns[0]) for row in grid.rows}
    assert {row: (round(cell.value), cell.seeds) for row, cell in cells.items()} == {
        "baseline": (25, 2),
        "fwm_hw_ld": (50, 2),
        "fwm_hw_ld (ld_hw_gradient: false)": (30, 2),
    }


def test_gaps_name_the_cell_with_its_switch(write):
    variants = ["baseline", {"objective": "fwm_hw_ld", "semantics": {"preset": "corrected", **SWITCH}}]
    config = StudyConfig.model_validate(
        {"study": "demo", "regimes": ["quickstart"], "variants": variants, "seeds": [0]}
    )
    create_study_dir(config, write.root)
    write.evaluated(write.run("baseline"), {"random_init": {"linear": 0.2}, "target": {"linear": 0.3}})
    (gap,) = write_report([write.root / "demo"]).data.gaps
    assert gap.startswith("fwm_hw_ld (corrected, ld_hw_gradient: false), seed 0")


def test_records_hold_the_named_switches_and_plain_ones_have_the_keys_they_had(write):
    plain, switched = write.run("fwm_hw_ld"), write.run("fwm_hw_ld", switches=SWITCH)
    paths = [write.evaluated(run, {"target": {"linear": 0.5}}) for run in (plain, switched)]
    old, new = (json.loads(path.read_text())["run"] for path in paths)
    assert list(old) == [
        *("study", "regime", "variant", "seed", "semantics", "overridden", "fingerprint", "step", "steps")
    ]
    assert new["switches"] == SWITCH and new["overridden"] == {**SWITCH, "mask_truncation": "tubes"}
    assert read_record(ProbeRecord, paths[1]).run.semantics_name == "corrected, ld_hw_gradient: false"
    table = RunDir(switched).records()
    assert list(table["semantics"]) == ["corrected, ld_hw_gradient: false"]
