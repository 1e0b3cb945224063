"""Differences as release 0.1 estimated them, to compare the present method with on the same scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from hpc_jepa.evaluation.stats.blocked import SeedScores

Scores = NDArray[np.float64]

RESAMPLES = 9999


@dataclass(frozen=True)
class FormerDifference:
    """A difference in [-1, 1] with its 95 % interval and its p-value, not adjusted."""

    value: float
    low: float
    high: float
    p_value: float


def former_difference(
    first: SeedScores, second: SeedScores, rng: np.random.Generator, resamples: int = RESAMPLES
) -> FormerDifference:
    """Mean of ``first`` minus mean of ``second``: clips resampled as if independent, the seeds of both sides unpaired.

    The p-value is that of the bootstrap, at least 2 / (resamples + 1); between two single runs that of the exact
    McNemar test.
    """
    sides = [np.stack(list(scores.values())) for scores in (first, second)]
    gain = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    values, counts = np.unique(gain, return_counts=True)
    replicates = rng.multinomial(gain.size, counts / gain.size, size=resamples) @ values / gain.size
    for scores in sides:
        seeds = scores.shape[0]
        if seeds > 1:
            error = _spread_between_seeds(scores) / np.sqrt(seeds)
            replicates = replicates + error * rng.standard_t(seeds - 1, resamples)
    low, high = np.quantile(replicates, [0.025, 0.975])
    single = all(scores.shape[0] == 1 for scores in sides)
    p_value = _mcnemar(*(scores[0] > 0.5 for scores in sides)) if single else _bootstrap_p(replicates)
    return FormerDifference(float(gain.mean()), float(low), float(high), p_value)


def _spread_between_seeds(scores: Scores) -> float:
    """Standard deviation between at least two seeds [S, n] beyond their interaction with clips."""
    seeds, clips = scores.shape
    means = scores.mean(axis=1)
    interaction = scores - means[:, None] - scores.mean(axis=0) + scores.mean()
    noise = np.square(interaction).sum() / ((seeds - 1) * (clips - 1)) / clips
    return float(np.sqrt(max(0.0, means.var(ddof=1) - noise)))


def _bootstrap_p(replicates: Scores) -> float:
    below, above = np.sum(replicates <= 0), np.sum(replicates >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + replicates.size)))


def _mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    gained, lost = int(np.sum(first & ~second)), int(np.sum(~first & second))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
