"""Empirical Bayes moderation of variances: a few seeds per comparison borrow strength from all comparisons.

The model of Smyth (2004), section 3, as in limma: the true variances of the comparisons follow a scaled inverse
chi-squared distribution, whose scale and degrees of freedom are estimated from the observed variances.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

Values = NDArray[np.float64]

SMALLEST = 1e-5
"""Variances below this fraction of the median are raised to it: the logarithm of zero would decide alone (limma)."""

RIDGE = 1e-9
"""Added to errors that are all shared: their matrix has no inverse."""

NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-9


@dataclass(frozen=True)
class VariancePrior:
    """Distribution of the true variances: ``variance`` * ``df`` / chi2(``df``). Infinite ``df``: all are equal.

    ``pooled_df``: degrees of freedom of the estimate of ``variance`` itself.
    """

    variance: float
    df: float
    pooled_df: float = math.inf

    def moderate(self, variances: Values, df: Values) -> tuple[Values, Values]:
        """Posterior variances and their degrees of freedom, for observed ``variances`` with ``df`` (Smyth 2004, 4)."""
        if math.isinf(self.df):
            return np.full_like(variances, self.variance), np.full_like(variances, math.inf)
        return (self.df * self.variance + df * variances) / (self.df + df), self.df + df

    def added_df(self, own_df: Values) -> Values:
        """What the prior adds to ``own_df`` of a variance: at most what its own estimate is worth beyond them."""
        beyond = np.maximum(self.pooled_df - own_df, 0.0)
        return np.asarray(beyond if math.isinf(self.df) else self.df * beyond / (self.df + beyond))


def fit_prior(variances: Values, df: Values, errors: Values | None = None) -> VariancePrior:
    """Prior of at least two ``variances`` [m] with ``df`` [m] degrees of freedom, by moments of their logarithms.

    Smyth (2004), section 6.2. If the logarithms vary no more than those of samples of one variance, the prior has
    infinite degrees of freedom and the pooled variance. ``errors``: see ``sampling_errors``, which weight the variances
    if their ``df`` differ; None: independent samples.
    """
    errors = 1 / df if errors is None else errors
    raised = np.maximum(variances, SMALLEST * np.median(variances))
    if not raised.any():
        return VariancePrior(0.0, math.inf, _pool(errors, math.inf)[1])
    raised = np.maximum(raised, np.min(raised[raised > 0]))
    logs = np.log(raised) - digamma(df / 2) + np.log(df / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, df / 2).mean())
    if excess <= 0:
        weights, pooled_df = _pool(errors, math.inf)
        return VariancePrior(float(weights @ variances), math.inf, pooled_df)
    half = trigamma_inverse(excess)
    weights, pooled_df = _pool(errors, 2 * half)
    return VariancePrior(float(np.exp(weights @ logs + digamma(half) - np.log(half))), 2 * half, pooled_df)


def sampling_errors(seeds: Sequence[Collection[int]], shared: float) -> Values:
    """Covariances [m, m] of the variances over ``seeds`` of differences to one reference, by 2 variance^2.

    ``shared``: square of the reference's share of each variance. Two comparisons have its runs of their common seeds in
    common: the covariance of two sample variances over sets A and B of one normal sample is 2 variance^2 tr(QA QB) /
    ((|A| - 1) (|B| - 1)), with Q the projections that subtract the means over A and B.
    """
    every = sorted(set().union(*seeds))
    member = np.array([[seed in own for seed in every] for own in seeds], float)
    counts, common = member.sum(axis=1), member @ member.T
    trace = common - common / counts - common / counts[:, None] + common**2 / np.outer(counts, counts)
    return np.asarray(shared * trace / np.outer(counts - 1, counts - 1) + np.diag((1 - shared) / (counts - 1)))


def _pool(errors: Values, prior_df: float) -> tuple[Values, float]:
    """Weights [m] of the mean of variances that has the least error (Aitken 1936), and its degrees of freedom.

    The true variances vary by ``prior_df`` around the mean. ``errors`` [m] of independent variances, or [m, m].
    """
    between = max(1 / prior_df, RIDGE)
    if errors.ndim == 1:
        weights = 1 / (errors + between)
        weights /= weights.sum()
        return weights, float(1 / (weights**2 @ errors))
    weights = np.linalg.solve(errors + np.eye(len(errors)) * between, np.ones(len(errors))).clip(min=0.0)
    weights /= weights.sum()
    return weights, float(1 / (weights @ errors @ weights))


def trigamma_inverse(value: float) -> float:
    """The x > 0 with trigamma(x) = ``value`` > 0, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(NEWTON_STEPS):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < NEWTON_TOLERANCE:
            break
    return x
