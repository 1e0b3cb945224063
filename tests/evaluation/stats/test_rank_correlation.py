"""Rank correlations over variants: the value of scipy, and intervals that hold for variants, seeds and clips."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.joint import BenchmarkScores, joint_means
from hpc_jepa.evaluation.stats.rank_correlation import rank_correlation, spearman

NONE = np.empty((0, 0, 2))


def test_correlations_are_those_of_scipy_with_ties():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 6, size=(20, 9, 2)).astype(float)
    expected = [spearmanr(one[:, 0], one[:, 1]).statistic for one in values]
    assert spearman(values) == pytest.approx(expected)
    assert spearman(np.ones((1, 5, 2))) == [0.0]


def test_the_interval_covers_the_correlation_of_all_variants_that_could_have_been_tried():
    """Normal pairs with correlation r have Spearman's correlation 6/pi asin(r/2)."""
    rng = np.random.default_rng(2)
    for r in (0.0, 0.6, 0.9):
        truth = 6 / np.pi * np.arcsin(r / 2)
        pairs = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], size=(1000, 15))
        found = [rank_correlation(one, NONE) for one in pairs]
        covered = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.93 < covered < 0.98, (r, covered)


def test_noise_of_the_measurements_makes_the_interval_wider():
    values = np.column_stack([np.arange(12.0), np.arange(12.0)])
    draws = values + np.random.default_rng(3).normal(0, 4, size=(500, 12, 2))
    plain, noisy = rank_correlation(values, NONE), rank_correlation(values, draws)
    assert plain.value == noisy.value == 1.0 and plain.low > noisy.low and plain.high < 1
    assert plain.low > 0.8


def test_too_few_variants_are_refused():
    with pytest.raises(InputError, match="4"):
        rank_correlation(np.zeros((3, 2)), NONE)


def table(rng, variants, seeds, clips, luck, own, shared):
    """[V, B, S, n] scores of two benchmarks: luck of a seed, of a run alone, and of a run on both benchmarks."""
    level = 0.5 + rng.normal(0, luck, size=(1, 1, seeds, 1))
    level = level + rng.normal(0, shared, size=(variants, 1, seeds, 1))
    level = level + rng.normal(0, own, size=(variants, 2, seeds, 1))
    return (rng.random(size=(variants, 2, seeds, clips)) < level).astype(float)


def joint(scores, draws=4000, clusters=None):
    benchmarks = [
        BenchmarkScores([dict(enumerate(variant[place])) for variant in scores], clusters) for place in (0, 1)
    ]
    return joint_means(benchmarks, draws)


def test_draws_vary_as_the_means_do_over_studies_without_the_luck_that_a_seed_gives_to_all():
    rng = np.random.default_rng(4)
    shape = {"variants": 8, "seeds": 3, "clips": 400, "luck": 0.1, "own": 0.03, "shared": 0.04}
    means = np.array([table(rng, **shape).mean(axis=(2, 3)) for _ in range(400)])
    means = means - means.mean(axis=1, keepdims=True)
    drawn = np.concatenate([joint(table(rng, **shape), 200).draws for _ in range(20)])
    drawn = drawn - drawn.mean(axis=1, keepdims=True)
    truth = np.mean([np.cov(means[:, v].T) for v in range(8)], axis=0)
    studies = np.split(drawn, 20)
    found = np.mean([[np.cov(study[:, v].T) for v in range(8)] for study in studies], axis=(0, 1))
    assert np.diag(found) == pytest.approx(np.diag(truth), rel=0.35)
    assert found[0, 1] == pytest.approx(truth[0, 1], rel=0.35)


def test_only_common_seeds_count_and_clusters_widen_the_draws():
    rng = np.random.default_rng(5)
    scores = [{0: rng.random(60), 1: rng.random(60)}, {1: rng.random(60), 2: rng.random(60)}]
    both = joint_means([BenchmarkScores(scores), BenchmarkScores(scores)], 10)
    assert both.seeds == 1 and both.values[0, 0] == pytest.approx(scores[0][1].mean())
    assert joint_means([BenchmarkScores([{0: rng.random(5)}, {1: rng.random(5)}])], 10) is None
    copied = [{0: np.repeat(rng.integers(0, 2, 30), 20).astype(float)} for _ in range(2)]
    apart, together = (
        joint_means([BenchmarkScores(copied, clusters)], 3000).draws.std(axis=0).mean()
        for clusters in (None, np.repeat(np.arange(30), 20))
    )
    assert together / apart == pytest.approx(np.sqrt(20), rel=0.1)
    with pytest.raises(InputError, match="clusters"):
        joint_means([BenchmarkScores(copied, np.arange(7))], 10)
