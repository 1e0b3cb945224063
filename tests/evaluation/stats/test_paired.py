import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, ks_2samp

from hpc_jepa.evaluation.stats import paired
from hpc_jepa.evaluation.stats.paired import accuracy, bootstrap_means, compare_paired


def outcomes(*shares, n=1000):
    """[S, n] with the given shares of correct clips, correct ones first."""
    return np.stack([np.arange(n) < round(share * n) for share in shares])


def test_interval_is_wilsons():
    found = accuracy(outcomes(0.242))
    assert found.value == pytest.approx(0.242)
    assert (found.low, found.high) == pytest.approx(binomtest(242, 1000).proportion_ci(0.95, method="wilson"), rel=1e-6)


def test_more_probe_seeds_do_not_narrow_the_interval():
    one, three = accuracy(outcomes(0.4)), accuracy(outcomes(0.3, 0.4, 0.5))
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))


def test_intervals_of_extreme_accuracies_stay_within_zero_and_one():
    assert accuracy(outcomes(1.0)).high <= 1 and accuracy(outcomes(1.0)).low < 1
    assert accuracy(outcomes(0.0)).low >= 0 and accuracy(outcomes(0.0)).high > 0


def test_mcnemar_counts_only_disagreements():
    first, second = np.zeros((1, 100), bool), np.zeros((1, 100), bool)
    first[0, :50] = second[0, :50] = True
    first[0, 50:62] = True
    second[0, 62:65] = True
    found = compare_paired(first, second)
    assert found.value == pytest.approx(0.09)
    assert found.p_value == pytest.approx(binomtest(12, 15).pvalue)


def test_bootstrap_interval_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(0)
    first, second = rng.random((1, 2000)) < 0.5, rng.random((1, 2000)) < 0.4
    found = compare_paired(first, second)
    gain = first[0].astype(float) - second[0]
    margin = 1.96 * gain.std() / np.sqrt(2000)
    assert found.low == pytest.approx(gain.mean() - margin, abs=0.004)
    assert found.high == pytest.approx(gain.mean() + margin, abs=0.004)
    assert found.significant


def test_the_same_seed_gives_the_same_interval_and_equal_predictions_no_difference():
    first, second = outcomes(0.5, 0.6), outcomes(0.4, 0.5)
    assert compare_paired(first, second, seed=4) == compare_paired(first, second, seed=4)
    same = compare_paired(first, first)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.significant


def test_multinomial_resampling_equals_resampling_clips():
    rng = np.random.default_rng(5)
    gain = rng.integers(-3, 4, 400) / 3
    means = bootstrap_means(gain, 20000, np.random.default_rng(0))
    plain = rng.choice(gain, (20000, 400)).mean(axis=1)
    assert ks_2samp(means, plain).pvalue > 0.01
    assert means.std() == pytest.approx(bootstrap((gain,), np.mean, rng=rng).standard_error, rel=0.03)


def test_intervals_of_an_accuracy_and_of_a_paired_difference_have_their_coverage(monkeypatch):
    monkeypatch.setattr(paired, "RESAMPLES", 999)
    rng, held = np.random.default_rng(11), []
    for draw in range(6000):  # four standard errors to either side
        ease = rng.random(1000)
        first, second = rng.random((2, 1, 1000)) < 0.1 + 0.5 * ease
        alone, pair = accuracy(first), compare_paired(first, second, seed=draw)
        held.append((alone.low <= 0.35 <= alone.high, pair.low <= 0 <= pair.high))
    assert np.mean(held, axis=0) == pytest.approx([0.95, 0.95], abs=0.01)
