"""Accuracy or mean error of one record with its confidence interval."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit
from statsmodels.stats.proportion import proportion_confint

Correct = NDArray[np.bool_]
"""[S, n]: whether probe seed s classifies test clip i correctly."""

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Scale:
    """Range of a mean of clip scores, and how much one clip changes its score when it becomes right.

    ``step``: root mean square over clips; 0 for scores that vary continuously, as errors do.
    """

    low: float = 0.0
    high: float = 1.0
    step: float = 1.0

    @property
    def is_proportion(self) -> bool:
        """Whether means are in [0, 1]."""
        return (self.low, self.high) == (0.0, 1.0)


PROPORTION = Scale()
"""Scores 0 (wrong) and 1 (right)."""


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


def mean_of_clips(
    scores: NDArray[np.float64], clusters: NDArray[np.int64] | None = None, scale: Scale = PROPORTION
) -> Estimate:
    """Mean of ``scores`` [n] with its interval.

    In [0, 1]: Wilson's, at the effective number of clips if they are in ``clusters`` or of unequal weight. On another
    scale: Student's t with the variance over clusters.
    """
    value = float(scores.mean())
    if not scale.is_proportion:
        return _mean_on(scale, scores, clusters)
    if clusters is None and scale.step != 1:
        clusters = np.arange(scores.size)
    n = float(scores.size) if clusters is None else effective_clips(scores, clusters, scale.step)
    low, high = proportion_confint(value * n, n, alpha=1 - CONFIDENCE_LEVEL, method="wilson")
    return Estimate(value, float(low), float(high))


def _mean_on(scale: Scale, scores: NDArray[np.float64], clusters: NDArray[np.int64] | None) -> Estimate:
    """Mean with the t interval of independent clusters, inside the range of the scale."""
    value = float(scores.mean())
    numbers = np.arange(scores.size) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(numbers, scores - value)
    df = max(1, sums.size - 1)
    error = math.sqrt(float(np.square(sums).sum()) * sums.size / df) / scores.size
    margin = float(stdtrit(df, (1 + CONFIDENCE_LEVEL) / 2)) * error
    return Estimate(value, max(scale.low, value - margin), min(scale.high, value + margin))


def effective_clips(scores: NDArray[np.float64], clusters: NDArray[np.int64], step: float = 1.0) -> float:
    """Number of independent clips that give a mean as exact as that of ``scores`` [n] in ``clusters`` [n].

    Korn & Graubard (1998): binomial variance by the variance over clusters, less for few clusters (Student's t against
    the normal quantile); between 1 and n. If all scores are equal, clips of one cluster count once. ``step``: root mean
    square of the weights of clips, whose mean is 1; clips of unequal weight count for n / step^2.
    """
    n, value = scores.size, float(scores.mean())
    numbers = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(numbers, scores - value)
    groups = sums.size
    variance = float(np.square(sums).sum()) * groups / max(1, groups - 1) / n**2
    quantile = (1 + CONFIDENCE_LEVEL) / 2
    few = float(ndtri(quantile) / stdtrit(max(1, groups - 1), quantile)) ** 2
    independent = value * (1 - value) / variance if variance > 0 else groups / step**2
    return min(n / step**2, max(1.0, independent * few))
