import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import polygamma
from scipy.stats import f

from hpc_jepa.evaluation.stats.moderation import VariancePrior, fit_prior, sampling_errors, trigamma_inverse


def test_prior_and_posterior_are_those_of_limma():
    """``squeezeVar(c(0.5, 1.3, 7.8), df = 3)`` of limma 3.55.1 in R."""
    variances, df = np.array([0.5, 1.3, 7.8]), np.full(3, 3.0)
    prior = fit_prior(variances, df)
    assert (prior.variance, prior.df) == pytest.approx((1.676927, 2.830777), abs=1e-6)
    moderated, total = prior.moderate(variances, df)
    assert moderated == pytest.approx([1.071385, 1.482994, 4.827317], abs=1e-6)
    assert total == pytest.approx(df + prior.df)


def test_trigamma_is_inverted():
    assert trigamma_inverse(5.0) == pytest.approx(0.4961687, abs=1e-7)  # limma's trigammaInverse(5)
    assert trigamma_inverse(1e8) == pytest.approx(1e-4)
    x = np.logspace(-3, 5, 50)
    assert [trigamma_inverse(float(polygamma(1, value))) for value in x] == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize("df, prior_df", [(2, 4.0), (4, 10.0)])
def test_moments_agree_with_maximum_likelihood(df, prior_df):
    variances = 0.3 * f.rvs(df, prior_df, size=20000, random_state=1)
    found = fit_prior(variances, np.full(variances.size, float(df)))

    def loss(log):
        scale, own = np.exp(log)
        return -f.logpdf(variances / scale, df, own).sum() + variances.size * np.log(scale)

    scale, own = np.exp(minimize(loss, [-1.0, 1.5], bounds=[(-3, 1), (0, 4)]).x)
    assert (found.variance, found.df) == pytest.approx((scale, own), rel=0.08)
    assert found.variance == pytest.approx(0.3, rel=0.05) and found.df == pytest.approx(prior_df, rel=0.15)


def test_equal_variances_are_pooled():
    prior = fit_prior(np.array([2.0, 2.0, 2.0, 4.0]), np.array([2.0, 2.0, 2.0, 6.0]))
    assert (prior.variance, prior.df, prior.pooled_df) == pytest.approx((3.0, np.inf, 12.0))
    moderated, df = prior.moderate(np.array([2.0]), np.array([2.0]))
    assert moderated == pytest.approx([3.0]) and df == [np.inf]


def test_variances_of_zero():
    assert fit_prior(np.zeros(5), np.full(5, 2.0)) == VariancePrior(0.0, np.inf, pytest.approx(10.0))
    some = fit_prior(np.array([0.0, 0.0, 0.0, 1.0, 2.0]), np.full(5, 2.0))
    assert 0 < some.variance < 3 and some.df > 0


SETS = [(0, 1, 2)] * 4 + [(0, 1, 2, 3, 4, 5, 6, 7)] * 2 + [(1, 3, 5), (2, 3)]


def differences(rng, count, reference_std=1.0):
    """[count, variants, seeds]: runs of eight variants minus those of a reference."""
    return rng.normal(0, 1, (count, len(SETS), 8)) - rng.normal(0, reference_std, (count, 1, 8))


def test_comparisons_of_other_seeds_have_the_errors_of_simulated_variances():
    found = differences(np.random.default_rng(3), 40_000)
    variances = np.stack([found[:, v, list(seeds)].var(axis=1, ddof=1) for v, seeds in enumerate(SETS)])
    assert np.cov(variances) / 2 / 2**2 == pytest.approx(sampling_errors(SETS, 0.25), abs=0.02)


def test_the_pooled_variance_of_unequal_seeds_has_its_degrees_of_freedom_and_beats_the_plain_mean():
    errors, df = sampling_errors(SETS, 0.25), np.array([len(seeds) - 1.0 for seeds in SETS])
    variances = [
        np.stack([one[list(seeds)].var(ddof=1) for one, seeds in zip(grid, SETS, strict=True)])
        for grid in differences(np.random.default_rng(4), 1500)
    ]
    pooled = [prior for prior in (fit_prior(each, df, errors) for each in variances) if np.isinf(prior.df)]
    worth = pooled[0].pooled_df
    weights = np.linalg.solve(errors, np.ones(len(SETS)))
    weights /= weights.sum()
    assert worth == pytest.approx(1 / (weights @ errors @ weights))
    assert np.var(np.array(variances) @ weights) == pytest.approx(2 * 2**2 / worth, rel=0.15)
    assert worth > 1 / (df @ errors @ df / df.sum() ** 2)  # weights by degrees of freedom alone


def test_variants_that_stopped_take_little_from_those_that_go_on():
    """24 variants of three seeds, six of eight, by two group means: the shared part has 2 and 7 degrees of freedom."""
    stopped, on, both = 0.25 / 2 + 0.75 / 2 / 24, 0.25 / 7 + 0.75 / 7 / 6, 0.25 / 7
    best = (stopped * on - both**2) / (stopped + on - 2 * both)
    sets = [(0, 1, 2)] * 24 + [range(8)] * 6
    prior = fit_prior(np.full(30, 2.0), np.array([len(seeds) - 1.0 for seeds in sets]), sampling_errors(sets, 0.25))
    assert prior.pooled_df == pytest.approx(1 / best)
    assert prior.pooled_df > 1.3 * 3 / (0.25 + 0.75 / 30)  # that of the mean number of seeds, which is four


def test_a_prior_adds_what_its_estimate_is_worth_beyond_the_comparison():
    """Seeds of equal numbers: (S-1) / (c + (1-c) / m) degrees of freedom."""
    prior = fit_prior(np.full(6, 2.0), np.full(6, 3.0), sampling_errors([range(4)] * 6, 0.3))
    worth = 3 / (0.3 + 0.7 / 6)
    assert prior.pooled_df == pytest.approx(worth)
    assert prior.added_df(np.array([3.0, 20.0])) == pytest.approx([worth - 3, 0])
    varying = VariancePrior(2.0, 5.0, worth)
    assert varying.added_df(np.array([3.0])) == pytest.approx(5 * (worth - 3) / (5 + worth - 3))


def test_errors_that_all_comparisons_share_are_those_of_the_best_known_one():
    prior = fit_prior(np.full(3, 2.0), np.array([1.0, 1.0, 4.0]), sampling_errors([(0, 1), (0, 1), range(5)], 1.0))
    assert prior.pooled_df == pytest.approx(4.0, rel=1e-3)
