import numpy as np
import pytest
from scipy.stats import binomtest

from hpc_jepa.evaluation.statistics import accuracy, compare


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


def test_all_right_and_all_wrong_stay_within_zero_and_one():
    assert accuracy(outcomes(1.0)).high <= 1 and accuracy(outcomes(1.0)).low < 1
    assert accuracy(outcomes(0.0)).low >= 0 and accuracy(outcomes(0.0)).high > 0


def test_mcnemar_counts_only_disagreements():
    first, second = np.zeros((1, 100), bool), np.zeros((1, 100), bool)
    first[0, :50] = second[0, :50] = True
    first[0, 50:62] = True
    second[0, 62:65] = True
    found = compare(first, second)
    assert found.difference == pytest.approx(0.09)
    assert found.p_value == pytest.approx(binomtest(12, 15).pvalue)


def test_bootstrap_interval_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(0)
    first, second = rng.random((1, 2000)) < 0.5, rng.random((1, 2000)) < 0.4
    found = compare(first, second)
    gain = first[0].astype(float) - second[0]
    margin = 1.96 * gain.std() / np.sqrt(2000)
    assert found.low == pytest.approx(gain.mean() - margin, abs=0.004)
    assert found.high == pytest.approx(gain.mean() + margin, abs=0.004)
    assert found.significant


def test_the_same_seed_gives_the_same_interval_and_equal_predictions_no_difference():
    first, second = outcomes(0.5, 0.6), outcomes(0.4, 0.5)
    assert compare(first, second, seed=4) == compare(first, second, seed=4)
    same = compare(first, first)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.significant
