"""Many comparisons at once: Holm's adjusted p-values, and the multiplier of simultaneous intervals (max-T)."""

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

Values = NDArray[np.float64]

NODES = 32
"""Nodes of each of the two numerical integrals; 32 give the quantile to 1e-3."""

CORRELATION_STEPS = 20
DF_STEP = 0.05
"""Correlation is rounded down to 1/20 and df up by at most 5 %: wider intervals, and results are reused."""


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for the whole family (Holm 1979), in the given order.

    Equal to ``multipletests`` of statsmodels, which runs Python's garbage collector on every call: 50 ms.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(count)
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values, float)[order] * np.arange(count, 0, -1)).clip(max=1)
    return [float(p) for p in adjusted]


def simultaneous_level(comparisons: int, correlation: float, df: float, confidence: float) -> float:
    """Two-sided error of each of ``comparisons`` intervals that together hold with probability ``confidence``.

    Multivariate t with ``df`` and one correlation >= 0 between all estimates, the case of comparisons that share a
    reference (Dunnett 1955). An interval of other degrees of freedom uses its own t quantile at this level.
    """
    if comparisons == 1:
        return 1 - confidence
    step = math.ceil(math.log(min(max(df, 1.0), 1e4)) / DF_STEP)
    return _level(comparisons, math.floor(correlation * CORRELATION_STEPS), step, confidence)


@lru_cache(maxsize=4096)
def _level(comparisons: int, correlation_step: int, df_step: int, confidence: float) -> float:
    correlation, df = correlation_step / CORRELATION_STEPS, math.exp(df_step * DF_STEP)

    def excess(quantile: float) -> float:
        return _coverage(quantile, comparisons, correlation, df) - confidence

    alpha = 1 - confidence
    low, high = t.isf(alpha / 2, df), t.isf(alpha / 2 / comparisons, df)
    quantile = brentq(excess, low * 0.99, high * 1.01, xtol=1e-4)
    return float(2 * t.sf(quantile, df))


@cache
def _nodes() -> tuple[tuple[Values, Values], tuple[Values, Values]]:
    """Nodes and weights of the two integrals."""
    return hermegauss(NODES), leggauss(NODES)


def _coverage(quantile: float, comparisons: int, correlation: float, df: float) -> float:
    """P(all |T| <= quantile): over the common standard deviation and the part of all estimates that is shared."""
    (shared, weights), (x, scale_weights) = _nodes()
    scale = np.sqrt(chi2.ppf((x + 1) / 2, df) / df)
    own, common = math.sqrt(1 - correlation), math.sqrt(correlation) * shared
    limits = quantile * scale[:, None]
    inside = norm.cdf((limits - common) / own) - norm.cdf((-limits - common) / own)
    return float(scale_weights @ (inside**comparisons) @ weights) / 2 / math.sqrt(2 * math.pi)
