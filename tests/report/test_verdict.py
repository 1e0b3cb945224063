"""What a report calls a gain: families of comparisons, single seeds, missing seeds, and causes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.report.report_data import ReportData, collect_run_data
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.write_report import write_report
from hpc_jepa.study.grid import expand_study
from tests.report.simulated_study import SimulatedStudy

PLANTED = 0.5


def shipped(name: str) -> StudyConfig:
    return read_config(StudyConfig, [find_config(name, "study")])


def collect(folder: Path) -> ReportData:
    """The content of a report, without drawing it."""
    return collect_run_data(find_runs([folder]), [folder])


def contrasts(data: ReportData) -> list:
    return [contrast for grid in data.grids for _, _, contrast in grid.all_contrasts()]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def planted(config, benchmark, protocol) -> float:
    return 0.2 + (PLANTED if config.variant != "baseline" else 0)


def null(config, benchmark, protocol) -> float:
    return 0.3


@pytest.mark.slow
def test_an_effect_in_every_cell_of_the_extended_study_is_found_in_every_cell(tmp_path):
    data = collect(SimulatedStudy(tmp_path, planted).write(shipped("extended")))
    asked = [contrast for contrast in contrasts(data) if contrast.asked]
    assert len(asked) == 2 * 27 * 4 and {grid.family for grid in data.grids} == {len(asked)}
    assert all(contrast.significant and contrast.points > 0 for contrast in asked)
    other = [contrast for contrast in contrasts(data) if not contrast.asked]
    assert len(other) == 2 * 27 * 4 + 2 * 8  # the second protocol, and random_init in eight columns of each regime
    assert not any(contrast.significant for contrast in other) and {c.adjusted for c in other} == {None}


def test_with_one_seed_nothing_in_the_paper_study_is_called_a_gain(tmp_path):
    folder = SimulatedStudy(tmp_path, planted).write(shipped("paper"))
    data = collect(folder)
    asked = [contrast for contrast in contrasts(data) if contrast.asked]
    assert len(asked) == 2 * 18 * 4
    assert all(contrast.one_seed and not contrast.significant for contrast in asked)
    assert {contrast.dropped_seeds for contrast in asked} == {2}  # three seeds of the baseline against one
    (caveat,) = [line for line in data.headlines if line.startswith("One pretraining seed per variant")]
    assert "no evidence" in caveat
    assert not any("gain" in line for line in data.headlines if line != caveat)


def test_adjusted_p_values_are_holms_over_what_the_study_asks(tmp_path):
    def accuracy(config, benchmark, protocol):
        return 0.3 + 0.15 * (config.variant in ("hw", "ld"))

    study = small_study(["baseline", "hw", "ld", "fwm", "delta"], seeds=(0, 1, 2), regimes=("mixed", "ucf101"))
    data = collect(SimulatedStudy(tmp_path, accuracy, clips=2000).write(study))
    asked = [contrast for contrast in contrasts(data) if contrast.asked]
    expected = multipletests([contrast.p_value for contrast in asked], method="holm")[1]
    assert [contrast.adjusted for contrast in asked] == pytest.approx(expected)
    assert len(asked) == 2 * 4 * 2 and 0 < sum(contrast.significant for contrast in asked) < len(asked)
    assert all(
        contrast.simultaneous_low < contrast.low < contrast.high < contrast.simultaneous_high for contrast in asked
    )


def small_study(variants, seeds=(239,), regimes=("mixed",), benchmarks=("imagenet100", "diving48")) -> StudyConfig:
    evaluations = [{"benchmark": name, "protocols": ["published", "standard"]} for name in benchmarks]
    facts = {"study": "small", "regimes": regimes, "variants": variants, "seeds": seeds, "evaluations": evaluations}
    return StudyConfig.model_validate(facts)


def test_identical_variants_with_one_seed_each_are_neither_coloured_nor_judged(tmp_path):
    """At the published spread between seeds, the clips alone would call most of these differences real."""
    variants = ["baseline", "hw", "delta", "fwm", "ld", "fwm_ld", "hw_ld", "fwm_hw_ld", "amg"]
    study = SimulatedStudy(tmp_path, null, clips=5000, seed_spread=0, own_spread=0.035)
    report = write_report([study.write(small_study(variants))])
    lines = [row for row in rows(report.folder / "grid.csv") if row["difference"]]
    assert sum(float(row["p"]) < 0.05 for row in lines) > len(lines) / 2
    assert {row["significant"] for row in lines} == {"False"} and {row["p_holm"] for row in lines} == {""}
    page = (report.folder / "index.html").read_text()
    assert page.count('class="change up"') == page.count('class="change down"') == 1  # the key
    claims = rows(report.folder / "claims.csv")
    assert "undecided: one seed" in {row["verdict"] for row in claims}
    about_variants = [row for row in claims if row["low"] or not row["computed"]]
    assert {row["verdict"] for row in about_variants} <= {"undecided", "undecided: one seed"}


def test_claims_are_judged_by_the_statistics_of_the_grid(tmp_path):
    """A gain that is significant alone but not in its family supports no claim."""

    def accuracy(config, benchmark, protocol):
        return 0.3 + {"fwm": 0.019, "ac": 0.3}.get(config.variant, 0)

    variants = ["baseline", "fwm", "ac", *("hw", "ld", "delta", "amg", "spectral", "ltc")]
    simulated = SimulatedStudy(tmp_path / "runs", accuracy, clips=3000, own_spread=0.005)
    folder = simulated.write(small_study(variants, seeds=(0, 1, 2)))
    gains = {variant: claim(variant, low=0.5) for variant in ("fwm", "ac")}
    path = tmp_path / "claims.json"
    path.write_text(json.dumps({"claims": list(gains.values())}))
    report = write_report([folder], claims=path)
    (grid,) = report.data.grids
    cells = {variant: grid.cell(variant, "imagenet100, published, linear").contrast for variant in gains}
    assert cells["fwm"].p_value < 0.05 < cells["fwm"].adjusted and cells["ac"].adjusted < 0.001
    found = {row["id"]: row for row in rows(report.folder / "claims.csv")}
    assert {name: row["verdict"] for name, row in found.items()} == {"fwm": "undecided", "ac": "supported"}
    for name, cell in cells.items():
        assert float(found[name]["low"]) == pytest.approx(cell.simultaneous_low, abs=0.01)


def claim(variant: str, low: float) -> dict:
    predicate = {"type": "all_differences_in_range", "regime": "mixed", "benchmark": "imagenet100"}
    predicate |= {"variants": [variant], "baseline": "baseline", "low": low, "high": 99, "tolerance": 0}
    return {"id": variant, "statement": f"{variant} gains", "predicate": predicate}


def test_a_seed_that_one_side_lacks_is_left_out_counted_and_said(tmp_path):
    study = small_study(["baseline", "hw", {"objective": "ld", "seeds": [0, 1]}, "fwm"], seeds=(0, 1, 2))
    report = write_report([SimulatedStudy(tmp_path, null).write(study)])
    found = {row["variant"]: row for row in rows(report.folder / "grid.csv") if row["in_family"] == "True"}
    assert {name: (row["common_seeds"], row["dropped_seeds"]) for name, row in found.items()} == {
        "fwm": ("3", "0"),
        "hw": ("3", "0"),
        "ld": ("2", "1"),
    }
    assert "ld: 1" in (report.folder / "index.html").read_text()


def test_a_record_of_another_step_is_left_out_of_comparisons_by_name(tmp_path):
    study = small_study(["baseline", "hw", "ld"], seeds=(0, 1, 2))
    cells = expand_study(study, tmp_path)
    early = next(cell.folder for cell in cells if (cell.config.variant, cell.config.seed) == ("ld", 1))
    data = collect(SimulatedStudy(tmp_path, null, steps={early: 200}).write(study, cells))
    (grid,) = data.grids
    assert {row: contrast.seeds for row, contrast in grid.contrasts(grid.columns[0]) if contrast.asked} == {
        "hw": 3,
        "ld": 2,
    }
    lines = [line for line in data.gaps if "left out" in line]
    assert len(lines) == 4 and all("ld (corrected), seed 1" in line and "step 200" in line for line in lines)
    assert {row.steps for row in data.rows if row.is_trained} == {200, cells[0].config.schedule.steps}


def test_one_finished_run_counts_before_many_unfinished_ones(tmp_path):
    study = small_study(["baseline", "hw", "ld"], seeds=(0, 1), benchmarks=("ssv2",))
    cells = expand_study(study, tmp_path)
    early = {cell.folder: 200 for cell in cells if cell.config.variant != "baseline"}
    data = collect(SimulatedStudy(tmp_path, null, steps=early).write(study, cells))
    (grid,) = data.grids
    assert {row for row in grid.rows if grid.cell(row, grid.columns[0])} == {"random_init", "baseline"}


def test_known_source_videos_widen_intervals_and_unknown_ones_are_said(tmp_path):
    study = small_study(["baseline", "hw"], seeds=(0, 1, 2))
    clips = 400
    plain = write_report([SimulatedStudy(tmp_path / "plain", null, clips=clips).write(study)])
    ten_each = np.arange(clips) // 10
    known = write_report([SimulatedStudy(tmp_path / "known", null, clips=clips, clusters=ten_each).write(study)])
    for report, clusters, marked in ((plain, None, True), (known, 40, False)):
        (grid,) = report.data.grids
        assert {contrast.clusters for _, _, contrast in grid.all_contrasts()} == {clusters}
        assert ("source videos of the clips unknown" in (report.folder / "tables.md").read_text()) is marked
    assert {row["clusters"] for row in rows(known.folder / "grid.csv")} == {"40"} | {""}


def test_rows_that_differ_beside_their_objective_say_so(tmp_path):
    study = small_study(["baseline", "hw", {"objective": "hw", "semantics": "published"}], seeds=(0, 1, 2))
    data = collect(SimulatedStudy(tmp_path, planted).write(study))
    (grid,) = data.grids
    assert grid.row_caveat("hw") == "" and "semantics." in grid.row_caveat("hw (published)")
    (line,) = [line for line in data.headlines if "gains" in line]
    assert "hw (imagenet100" in line and "hw (published)" not in line and "2 more are" in line


def test_a_record_of_a_variant_that_no_run_is_configured_as_names_no_cause(tmp_path):
    study = small_study(["baseline", "hw"], seeds=(0, 1), benchmarks=("ssv2",))
    folder = SimulatedStudy(tmp_path, null).write(study)
    for path in folder.glob("mixed/hw/*/eval/*.json"):
        facts = json.loads(path.read_text())
        facts["run"]["variant"] = "renamed"
        path.write_text(json.dumps(facts))
    (grid,) = write_report([folder]).data.grids
    assert "renamed" in grid.rows and "unknown configuration" in grid.row_caveat("renamed")


def test_a_few_clips_that_can_show_nothing_make_a_report(tmp_path):
    study = small_study(["baseline", "hw"], benchmarks=("ssv2",))
    simulated = SimulatedStudy(tmp_path, lambda *cell: 0.95, clips=8)
    facts = json.loads((write_report([simulated.write(study)]).folder / "report.json").read_text())
    assert facts["grids"][0]["detectable"][0]["alone"] is None


def test_the_detectable_gain_contains_the_spread_between_seeds(tmp_path):
    study = small_study(["baseline", "hw", "ld", "fwm", "delta", "amg", "ltc"], seeds=(0, 1, 2), benchmarks=("ssv2",))

    def gain(spread: float) -> float:
        simulated = SimulatedStudy(tmp_path / str(spread), null, clips=4000, own_spread=spread)
        facts = json.loads((write_report([simulated.write(study)]).folder / "report.json").read_text())
        return facts["grids"][0]["detectable"][0]["alone"]

    # By hand for 3 seeds and a spread of 3 points: a standard error of 3 sqrt(2/3) = 2.4 points, times about 3.
    assert 4 < gain(0.03) < 12 and gain(0.001) < 3.5


def test_variants_of_a_length_of_their_own_are_shown_where_the_study_asks_about_settings(tmp_path):
    long = {"objective": "baseline", "name": "long", "overrides": ["schedule.steps=800"]}
    facts = small_study(["baseline", long], seeds=(0, 1, 2), benchmarks=("ssv2",)).model_dump()
    study = StudyConfig.model_validate({**facts, "baseline": "baseline"})
    cells = expand_study(study, tmp_path)
    early = next(cell.folder for cell in cells if (cell.config.variant, cell.config.seed) == ("long", 1))
    data = collect(SimulatedStudy(tmp_path, null, steps={early: 200}).write(study, cells))
    (grid,) = data.grids
    assert grid.cell("long", grid.columns[0]).seeds == 2 and grid.cell("baseline", grid.columns[0]).seeds == 3
    lines = [line for line in data.gaps if "left out" in line]
    assert lines and all("long (corrected), seed 1" in line and "the others at 800" in line for line in lines)


def test_a_sweep_over_the_number_of_steps_has_a_row_for_each(tmp_path):
    facts = small_study(["baseline", "hw"], seeds=(0, 1), benchmarks=("ssv2",)).model_dump()
    study = StudyConfig.model_validate({**facts, "axes": {"schedule.steps": [400, 800]}})
    data = collect(SimulatedStudy(tmp_path, null).write(study))
    (grid,) = data.grids
    compared = {row: contrast.reference for row, contrast in grid.contrasts(grid.columns[0]) if contrast.asked}
    assert compared == {f"hw.steps-{steps}": f"baseline.steps-{steps}" for steps in (400, 800)}
    assert not [line for line in data.gaps if "left out" in line]


def test_each_row_that_others_are_compared_with_is_marked_as_a_reference(tmp_path):
    facts = small_study(["baseline", "hw"], seeds=(0, 1), benchmarks=("ssv2",)).model_dump()
    study = StudyConfig.model_validate({**facts, "axes": {"schedule.lr": [0.1, 0.2]}})
    (grid,) = collect(SimulatedStudy(tmp_path / "axes", null).write(study)).grids
    assert set(grid.references) == {"baseline.lr-0.1", "baseline.lr-0.2"} and grid.reference not in grid.compared_with
    plain = small_study(["baseline", "hw", {"objective": "baseline", "semantics": "published"}], benchmarks=("ssv2",))
    (grid,) = collect(SimulatedStudy(tmp_path / "plain", null).write(plain)).grids
    assert (grid.references, grid.compared_with) == (("baseline",), "baseline")
