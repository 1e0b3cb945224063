"""Accuracy over several pretraining seeds, and its difference between two variants: two levels of chance at once.

Which clips are tested and which seeds were trained are both draws. The bootstrap here draws both. Clips are resampled
jointly for all seeds, since all judge the same clips. Seeds are too few to be resampled (three have ten distinct
samples), so their mean is drawn from its t distribution, with the spread that the clips do not explain already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.paired import RESAMPLES, bootstrap_means, percentile_interval

Scores = NDArray[np.float64]
"""[S, n]: how right pretraining seed s is on test clip i, as a share of its probe seeds."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and clips with its 95 % interval, and the p-value of the hypothesis that it is zero."""

    value: float
    low: float
    high: float
    p_value: float


def estimate_mean(scores: Scores, seed: int = 0) -> Estimate:
    """Mean of ``scores`` [S, n], S >= 1. With one seed the spread between seeds is unknown and left out.

    The spread between the seeds' means is taken whole, errors on the clips included: with three seeds too little is
    known to take any of it away, so the interval is rather too wide than too narrow.
    """
    seeds = scores.shape[0]
    spread = float(scores.mean(axis=1).std(ddof=1)) if seeds > 1 else 0.0
    return _estimate(scores.mean(axis=0), [(spread, seeds)], seed)


def estimate_difference(first: Scores, second: Scores, seed: int = 0) -> Estimate:
    """Mean of ``first`` [S, n] minus mean of ``second`` [R, n], on the same clips in the same order.

    The seeds of both sides vary for themselves, even where they have the same numbers: two or three pairs are too few
    to learn from them how much a common start makes runs alike.
    """
    sides = [(seed_std(scores), scores.shape[0]) for scores in (first, second)]
    return _estimate(first.mean(axis=0) - second.mean(axis=0), sides, seed)


def seed_std(scores: Scores) -> float:
    """Standard deviation between seeds beyond what finitely many clips explain; 0 where nothing is left.

    The moment estimator of two-way random effects: the variance of the seeds' means less that of the interaction of
    seed and clip (Searle, Casella & McCulloch 1992, section 4.3). One seed says nothing of it: 0.
    """
    seeds, clips = scores.shape
    if seeds == 1:
        return 0.0
    interaction = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    noise = np.square(interaction).sum() / ((seeds - 1) * (clips - 1)) / clips
    return float(np.sqrt(max(0.0, scores.mean(axis=1).var(ddof=1) - noise)))


def _estimate(gain: NDArray[np.float64], sides: Sequence[tuple[float, int]], seed: int) -> Estimate:
    """``gain`` [n] over clips; ``sides``: spread between seeds and their number."""
    rng = np.random.default_rng(seed)
    replicates = bootstrap_means(gain, RESAMPLES, rng)
    for spread, seeds in sides:
        if spread > 0:
            replicates = replicates + spread / np.sqrt(seeds) * rng.standard_t(seeds - 1, RESAMPLES)
    return Estimate(float(gain.mean()), *percentile_interval(replicates), _p_value(replicates))


def _p_value(replicates: NDArray[np.float64]) -> float:
    """Two-sided: the level at which the percentile interval begins to hold zero."""
    below, above = np.sum(replicates <= 0), np.sum(replicates >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + replicates.size)))
