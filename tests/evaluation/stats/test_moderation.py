import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import polygamma
from scipy.stats import f

from hpc_jepa.evaluation.stats.moderation import VariancePrior, fit_prior, trigamma_inverse


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
    assert prior == VariancePrior(3.0, np.inf)
    moderated, df = prior.moderate(np.array([2.0]), np.array([2.0]))
    assert moderated == [3.0] and df == [np.inf]


def test_variances_of_zero():
    assert fit_prior(np.zeros(5), np.full(5, 2.0)) == VariancePrior(0.0, np.inf)
    some = fit_prior(np.array([0.0, 0.0, 0.0, 1.0, 2.0]), np.full(5, 2.0))
    assert 0 < some.variance < 3 and some.df > 0
