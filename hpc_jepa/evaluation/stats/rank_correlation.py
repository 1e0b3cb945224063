"""Spearman's rank correlation of two measurements over variants, with an interval for variants, seeds and clips."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL, Estimate

FEWEST = 4
"""Variants below which the variance of the correlation is infinite."""


def rank_correlation(values: NDArray[np.float64], draws: NDArray[np.float64]) -> Estimate:
    """Correlation of the ranks of ``values`` [V, 2], with its 95 % interval.

    On Fisher's scale two variances add up: that of V variants as a sample of all that could have been tried (Bonett &
    Wright 2000, equation 9), and that of the measurements, over ``draws`` [D, V, 2]. Raises InputError for fewer than
    four variants.
    """
    count = len(values)
    if count < FEWEST:
        raise InputError(f"a rank correlation over {count} variants has no interval; it needs {FEWEST} or more")
    largest = 1 - 6 / (count * (count**2 - 1))  # half-way between a perfect order and the next one
    rho = float(spearman(values[None])[0])
    scale = math.atanh(min(max(rho, -largest), largest))
    measured = float(np.arctanh(spearman(draws).clip(-largest, largest)).var()) if len(draws) else 0.0
    error = math.sqrt((1 + rho**2 / 2) / (count - 3) + measured)
    margin = -float(ndtri((1 - CONFIDENCE_LEVEL) / 2)) * error
    return Estimate(rho, math.tanh(scale - margin), math.tanh(scale + margin))


def spearman(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlations [D] of the ranks of ``values`` [D, V, 2]; ties share their mean rank, no variation is 0."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    products = (ranks[..., 0] * ranks[..., 1]).sum(axis=1)
    scale = np.sqrt(np.square(ranks).sum(axis=1).prod(axis=1))
    return np.asarray(products / np.where(scale > 0, scale, 1.0))
