import numpy as np
import pytest

from hpc_jepa.report.headlines import compare_semantics
from hpc_jepa.report.predictions import correct_predictions
from hpc_jepa.report.results import collect_results
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.write_report import write_report


def test_the_probe_that_pretraining_wins_under_is_named_with_its_numbers(study):
    linear, attentive, *_ = write_report([study]).headlines
    assert linear == (
        "Linear probe (motion8, careful, quickstart): 1 of 3 pretrained encoders beat random_init with 95 % intervals "
        "that do not overlap. Best: fwm_hw_ld (corrected), target, seed 0, 46.4 % [43.3, 49.5] against "
        "24.2 % [21.6, 27.0]."
    )
    assert "0 of 3 pretrained encoders beat random_init" in attentive
    assert "2 fall below it likewise" in attentive


def test_better_worse_and_equal_semantics_are_each_said(write):
    def sentence(published, corrected, seed):
        for semantics, share in (("published", published), ("corrected", corrected)):
            run = write.run("fwm_hw_ld", semantics, seed=seed)
            write.evaluated(run, {"target": {"linear": share}}, salt=ord(semantics[0]))
        (comparison,) = compare_semantics(
            correct_predictions(
                collect_results(find_runs([run.parents[1] / f"fwm_hw_ld{s}/seed-{seed}" for s in ("", ".published")]))
            )
        )
        return comparison.sentence

    assert "corrected semantics reads out better than published semantics (46.0 against 24.0 %" in sentence(
        0.24, 0.46, 0
    )
    assert "reads out worse than" in sentence(0.46, 0.24, 1)
    assert "cannot be told apart from" in sentence(0.30, 0.31, 2)


def test_the_paired_test_uses_the_predictions_of_both_records(study):
    linear = next(
        c
        for c in compare_semantics(correct_predictions(collect_results(find_runs([study]))))
        if c.corrected.probe == "linear"
    )
    assert linear.points.difference == pytest.approx(0.464 - 0.240)
    # Independent errors: the variance of the difference is the sum of both.
    margin = 1.96 * np.sqrt((0.464 * 0.536 + 0.24 * 0.76) / 1000)
    assert linear.points.high - linear.points.low == pytest.approx(2 * margin, rel=0.1)


def test_a_probe_that_solves_the_benchmark_on_random_features_is_pointed_out(study, write):
    assert "An attentive probe reads 94.9 % [93.4, 96.1] from random weights" in write_report([study]).headlines[-1]
    hard = write.run("baseline", regime="hard")
    write.evaluated(hard, {"random_init": {"attentive": 0.15}, "target": {"attentive": 0.3}})
    assert not any("from random weights" in line for line in write_report([hard]).headlines)


def test_without_a_random_encoder_nothing_is_claimed(write):
    write.evaluated(write.run("baseline"), {"target": {"linear": 0.9}})
    assert list(write_report([write.root]).headlines) == [
        "Linear probe (motion8, careful, quickstart): no comparison with random_init, because it was not evaluated."
    ]


def test_one_pretraining_seed_is_called_no_evidence(study, write):
    assert any("One pretraining seed per variant" in line for line in write_report([study]).headlines)
    write.evaluated(write.run("baseline", seed=1), {"target": {"linear": 0.24, "attentive": 0.92}})
    assert not any("One pretraining seed" in line for line in write_report([study]).headlines)
