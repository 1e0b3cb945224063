import numpy as np
import pytest

from hpc_jepa.report.headlines import compare_semantics
from hpc_jepa.report.predictions import check_predictions
from hpc_jepa.report.results import collect_results
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.write_report import write_report


def test_pretrained_encoders_are_compared_with_random_ones_for_each_probe(study):
    linear, attentive, *_ = write_report([study]).data.headlines
    best = ("fwm_hw_ld (corrected), target, seed 0", "46.4 % [43.3, 49.5]", "24.2 % [21.6, 27.0]")
    assert all(part in linear for part in ("Linear", "1 of 3", *best))
    assert "Attentive" in attentive and "0 of 3" in attentive and "2 fall below" in attentive


def correct_of(places):
    return check_predictions(collect_results(find_runs(places).runs)).correct


def test_semantics_that_are_better_worse_or_equal_get_different_sentences(write):
    def sentence(published, corrected, seed):
        for semantics, share in (("published", published), ("corrected", corrected)):
            run = write.run("fwm_hw_ld", semantics, seed=seed)
            write.evaluated(run, {"target": {"linear": share}}, salt=ord(semantics[0]))
        (comparison,) = compare_semantics(
            correct_of([run.parents[1] / f"fwm_hw_ld{s}/seed-{seed}" for s in ("", ".published")])
        )
        return comparison.sentence

    better = sentence(0.24, 0.46, 0)
    assert "more accurate" in better and "46.0 %" in better and "24.0 %" in better
    assert "less accurate" in sentence(0.46, 0.24, 1)
    assert "not significant" in sentence(0.30, 0.31, 2)


def test_the_paired_test_uses_the_predictions_of_both_records(study):
    linear = next(c for c in compare_semantics(correct_of([study])) if c.corrected.probe == "linear")
    assert linear.points.value == pytest.approx(0.464 - 0.240)
    # Independent errors: the variance of the difference is the sum of both.
    margin = 1.96 * np.sqrt((0.464 * 0.536 + 0.24 * 0.76) / 1000)
    assert linear.points.high - linear.points.low == pytest.approx(2 * margin, rel=0.1)


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


def test_one_pretraining_seed_per_variant_is_a_caveat(study, write):
    assert any("One pretraining seed per variant" in line for line in write_report([study]).data.headlines)
    write.evaluated(write.run("baseline", seed=1), {"target": {"linear": 0.24, "attentive": 0.92}})
    assert not any("One pretraining seed" in line for line in write_report([study]).data.headlines)
