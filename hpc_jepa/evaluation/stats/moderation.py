"""Empirical Bayes moderation of variances: a few seeds per comparison borrow strength from all comparisons.

The model of Smyth (2004), section 3, as in limma: the true variances of the comparisons follow a scaled inverse
chi-squared distribution, whose scale and degrees of freedom are estimated from the observed variances.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

Values = NDArray[np.float64]

SMALLEST = 1e-5
"""Variances below this fraction of the median are raised to it: the logarithm of zero would decide alone (limma)."""

NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-9


@dataclass(frozen=True)
class VariancePrior:
    """Distribution of the true variances: ``variance`` * ``df`` / chi2(``df``). Infinite ``df``: all are equal."""

    variance: float
    df: float

    def moderate(self, variances: Values, df: Values) -> tuple[Values, Values]:
        """Posterior variances and their degrees of freedom, for observed ``variances`` with ``df`` (Smyth 2004, 4)."""
        if math.isinf(self.df):
            return np.full_like(variances, self.variance), np.full_like(variances, math.inf)
        return (self.df * self.variance + df * variances) / (self.df + df), self.df + df

    def limited(self, pooled_df: float) -> float:
        """``df`` of a prior whose variance is known from ``pooled_df`` degrees of freedom only."""
        return pooled_df if math.isinf(self.df) else self.df * pooled_df / (self.df + pooled_df)


def fit_prior(variances: Values, df: Values) -> VariancePrior:
    """Prior of at least two ``variances`` [m] with ``df`` [m] degrees of freedom, by moments of their logarithms.

    Smyth (2004), section 6.2. If the logarithms vary no more than those of samples of one variance, the prior has
    infinite degrees of freedom and the pooled variance.
    """
    raised = np.maximum(variances, SMALLEST * np.median(variances))
    if not raised.any():
        return VariancePrior(0.0, math.inf)
    raised = np.maximum(raised, np.min(raised[raised > 0]))
    logs = np.log(raised) - digamma(df / 2) + np.log(df / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, df / 2).mean())
    if excess <= 0:
        return VariancePrior(float(np.average(variances, weights=df)), math.inf)
    half = trigamma_inverse(excess)
    return VariancePrior(float(np.exp(logs.mean() + digamma(half) - np.log(half))), 2 * half)


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
