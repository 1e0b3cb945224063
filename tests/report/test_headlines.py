import numpy as np
import pytest

from hpc_jepa.config.study import StudyConfig
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.write_report import write_report
from hpc_jepa.study.grid import expand_study
from tests.report.asked_study import asking
from tests.report.simulated_study import SimulatedStudy


def test_pretrained_encoders_are_compared_with_random_ones_for_each_probe(study):
    headlines = write_report([study]).data.headlines
    linear, attentive = (line for line in headlines if "beat random_init" in line)
    assert headlines.index(linear) > next(i for i, line in enumerate(headlines) if "no evidence" in line)
    best = ("fwm_hw_ld (corrected), target, seed 0", "46.4 % [43.3, 49.5]", "24.2 % [21.6, 27.0]")
    assert all(part in linear for part in ("Linear", "1 of 3", *best))
    assert "Attentive" in attentive and "0 of 3" in attentive and "2 fall below" in attentive


def test_the_best_encoder_is_one_of_those_that_are_compared(write):
    run = write.run("hw")
    write.evaluated(run, {"random_init": {"linear": 0.1}, "target": {"linear": 0.5}, "student": {"linear": 0.9}})
    (line,) = [line for line in write_report([write.root]).data.headlines if "Best" in line]
    assert "hw (corrected), target, seed 0" in line and "2 of 2" in line


@pytest.mark.parametrize("random", [0.125, 0.95])
def test_the_best_encoder_is_a_variant_of_the_study_also_outside_its_contrast(tmp_path, random):
    """Better than all are a variant that the study dropped, its other semantics, and in one case random weights."""
    share = {"baseline": 0.3, "ld": 0.4, "fwm_ld": 0.5, "hw": 0.6, "fwm": 0.9}
    published = {"objective": "hw", "semantics": "published"}
    contrast = {"groups": {"factorised": ["fwm_ld"], "plain": ["ld"]}}
    study = asking(contrast, variants=("baseline", "ld", "fwm_ld", "hw"))
    wider = asking(contrast, variants=("baseline", "ld", "fwm_ld", "hw", "fwm", published))

    def accuracy(config, benchmark, protocol):
        return share[config.variant] + 0.2 * (config.semantics_name == "published")

    simulated = SimulatedStudy(tmp_path, accuracy, random_accuracy=random)
    folder = simulated.write(study, expand_study(wider, tmp_path))
    data = collect_run_data(find_runs([folder]), [folder])
    (line,) = [line for line in data.headlines if "Best" in line]
    own = [row for row in data.rows if row.variant == "hw" and row.semantics == "corrected"]
    best = own[int(np.argmax([row.value for row in own]))]
    assert f"{best.encoder}, {best.formatted}" in line.split("Best")[1]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_best_of_identical_variants_is_named_as_luck(tmp_path, seeds):
    """The best of several runs was chosen for its accuracy; the only run was not."""
    facts = {"study": "alike", "regimes": ["quickstart"], "evaluations": [{"benchmark": "motion8_linear"}]}
    study = StudyConfig.model_validate({**facts, "variants": ["baseline", "ld", "hw", "fwm"], "seeds": seeds})
    folder = SimulatedStudy(tmp_path, lambda *_: 0.4, own_spread=0.05).write(study)
    (line,) = [line for line in collect_run_data(find_runs([folder]), [folder]).headlines if "Best" in line]
    assert f"{4 * len(seeds)} that" in line and "luck" in line
    alone = folder / "quickstart" / "ld" / "seed-0"
    (line,) = [line for line in collect_run_data(find_runs([alone]), [alone]).headlines if "Best" in line]
    assert "luck" not in line


def test_a_probe_that_solves_the_benchmark_on_random_features_is_named(study, write):
    last = write_report([study]).data.headlines[-1]
    assert "attentive probe" in last and "94.9 % [93.4, 96.1]" in last and "random weights" in last
    hard = write.run("baseline", regime="hard")
    write.evaluated(hard, {"random_init": {"attentive": 0.15}, "target": {"attentive": 0.3}})
    assert not any("random weights" in line for line in write_report([hard]).data.headlines)


def test_without_a_random_encoder_there_is_no_comparison(write):
    write.evaluated(write.run("baseline"), {"target": {"linear": 0.9}})
    (line,) = write_report([write.root]).data.headlines
    assert "no comparison with random_init" in line


def test_one_common_pretraining_seed_is_a_caveat_of_each_row_and_stays(study, write):
    def caveats():
        report = write_report([study])
        (grid,) = report.data.grids
        lines = [line for line in report.data.headlines if "no evidence about the objectives" in line]
        return lines, {row: grid.row_caveat(row) for row in grid.rows}

    (line,), by_row = caveats()
    assert line.startswith("One pretraining seed per variant")
    for seed in (1, 2):
        write.evaluated(write.run("baseline", seed=seed), {"target": {"linear": 0.24, "attentive": 0.92}})
    assert caveats() == ([line], by_row)
    write.evaluated(write.run("fwm_hw_ld", seed=1), {"target": {"linear": 0.45, "attentive": 0.9}})
    (line,), by_row = caveats()
    assert "fwm_hw_ld (published)" in line and "fwm_hw_ld," not in line
    assert "one seed" in by_row["fwm_hw_ld (published)"] and "one seed" not in by_row["fwm_hw_ld"]
