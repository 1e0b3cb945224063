import numpy as np
import pytest
from scipy.stats import binomtest, norm

from hpc_jepa.evaluation.stats.accuracy import accuracy, effective_clips
from hpc_jepa.evaluation.stats.blocked import compare_with_reference


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


def test_intervals_of_an_accuracy_and_of_two_single_runs_have_their_coverage():
    rng, held = np.random.default_rng(11), []
    for _ in range(4000):  # three standard errors to either side
        ease = rng.random(1000)
        first, second = rng.random((2, 1000)) < 0.1 + 0.5 * ease
        alone = accuracy(first[None])
        pair = compare_with_reference({"": {0: first.astype(float)}}, {0: second.astype(float)})[""]
        held.append((alone.low <= 0.35 <= alone.high, pair.low <= 0 <= pair.high))
    assert np.mean(held, axis=0) == pytest.approx([0.95, 0.95], abs=0.0105)


def test_clips_of_one_video_count_for_fewer():
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(50), 10)
    alike = np.repeat(rng.random(50) < 0.4, 10).astype(float)
    assert effective_clips(alike, videos) == pytest.approx(50, rel=0.1)
    alone = (rng.random(500) < 0.4).astype(float)
    assert effective_clips(alone, np.arange(500)) == pytest.approx(500, rel=0.02)
    assert effective_clips(np.ones(500), videos) < 51
    assert effective_clips(alone, np.zeros(500, int)) >= 1


def test_an_accuracy_with_clusters_is_wilsons_at_the_effective_number():
    rng = np.random.default_rng(1)
    videos = np.repeat(np.arange(40), 5)
    right = np.repeat(rng.random(40) < 0.7, 5)[None]
    found, n = accuracy(right, videos), effective_clips(right[0].astype(float), videos)
    z, p = norm.ppf(0.975), right.mean()
    middle, margin = (p + z**2 / 2 / n), z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert (found.low, found.high) == pytest.approx([(middle + side * margin) / (1 + z**2 / n) for side in (-1, 1)])
    assert found.high - found.low > 1.8 * (accuracy(right).high - accuracy(right).low)
