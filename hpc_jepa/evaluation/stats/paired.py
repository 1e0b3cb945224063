"""Accuracy with its confidence interval, and the paired difference of two encoders on the same clips."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

Correct = NDArray[np.bool_]
"""[S, n]: whether probe seed s classifies test clip i correctly."""

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """An accuracy or a difference with its 95 % confidence interval, and its p-value against zero (NaN: not tested)."""

    value: float
    low: float
    high: float
    p_value: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def accuracy(correct: Correct, clusters: NDArray[np.int64] | None = None) -> Estimate:
    """Mean accuracy over probe seeds with the Wilson (1927) interval at that mean.

    The interval uses n = number of test clips for any number of seeds: all seeds are tested on the same clips, so they
    add no independent observations. It covers the sampling of test clips, not that of pretraining seeds. ``clusters``
    [n]: clips of equal numbers come from one source video, and count for fewer.
    """
    return mean_of_clips(correct.mean(axis=0), clusters)


def mean_of_clips(scores: NDArray[np.float64], clusters: NDArray[np.int64] | None = None) -> Estimate:
    """Mean of ``scores`` [n] in [0, 1] with Wilson's interval, at the effective number of clips if in ``clusters``."""
    value = float(scores.mean())
    n = float(scores.size) if clusters is None else effective_clips(scores, clusters)
    low, high = proportion_confint(value * n, n, alpha=1 - CONFIDENCE_LEVEL, method="wilson")
    return Estimate(value, float(low), float(high))


def effective_clips(scores: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    """Number of independent clips that give a mean as exact as that of ``scores`` [n] in ``clusters`` [n].

    Korn & Graubard (1998): binomial variance by the variance over clusters, less for few clusters (Student's t against
    the normal quantile); between 1 and n. If all scores are equal, clips of one cluster count once.
    """
    n, value = scores.size, float(scores.mean())
    numbers = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(numbers, scores - value)
    groups = sums.size
    variance = float(np.square(sums).sum()) * groups / max(1, groups - 1) / n**2
    quantile = (1 + CONFIDENCE_LEVEL) / 2
    few = float(ndtri(quantile) / stdtrit(max(1, groups - 1), quantile)) ** 2
    independent = value * (1 - value) / variance if variance > 0 else groups
    return min(float(n), max(1.0, independent * few))


def compare_paired(first: Correct, second: Correct, seed: int = 0) -> Estimate:
    """Accuracy of the first minus accuracy of the second, on the same clips in the same order.

    The interval is the percentile bootstrap over clips of the difference averaged over seeds. The p-value is from the
    exact McNemar (1947) test; with several seeds a clip counts as correct if the majority of them is correct.
    """
    gain = first.mean(axis=0) - second.mean(axis=0)
    interval = percentile_interval(bootstrap_means(gain, RESAMPLES, np.random.default_rng(seed)))
    return Estimate(float(gain.mean()), *interval, _mcnemar(_majority(first), _majority(second)))


def bootstrap_means(gain: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means [resamples] of bootstrap samples of ``gain`` [n].

    Clips of equal gain are interchangeable, so the counts of the distinct gains are multinomial. This has the same
    distribution as drawing n clips with replacement, but draws only a handful of numbers.
    """
    values, counts = np.unique(gain, return_counts=True)
    drawn = rng.multinomial(gain.size, counts / gain.size, size=resamples)
    return np.asarray(drawn @ values / gain.size)


def percentile_interval(replicates: NDArray[np.float64]) -> tuple[float, float]:
    """Interval between the 2.5 % and 97.5 % quantiles of ``replicates``."""
    low, high = np.quantile(replicates, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


def _majority(correct: Correct) -> Correct:
    return np.asarray(correct.mean(axis=0) > 0.5)


def _mcnemar(first: Correct, second: Correct) -> float:
    table = [[np.sum(first & second), np.sum(first & ~second)], [np.sum(~first & second), np.sum(~first & ~second)]]
    return float(mcnemar(table, exact=True).pvalue)
