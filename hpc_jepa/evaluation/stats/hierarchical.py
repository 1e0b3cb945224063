"""Hierarchical bootstrap over pretraining seeds and test clips: mean accuracy, and its difference between variants.

Test clips and pretraining seeds are both random samples. Clips are resampled jointly for all seeds, because all seeds
are tested on the same clips. Seeds are too few to resample (three seeds have ten distinct samples), so their mean is
drawn from its t distribution, with the standard deviation that the clips do not already explain.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.paired import RESAMPLES, Estimate, bootstrap_means, percentile_interval

Scores = NDArray[np.float64]
"""[S, n]: fraction of the probe seeds of pretraining seed s that classify test clip i correctly."""


def estimate_mean(scores: Scores, seed: int = 0) -> Estimate:
    """Mean of ``scores`` [S, n], S >= 1. With one seed the variation between seeds is unknown and not included.

    The standard deviation between seed means is not corrected for errors on the clips: three seeds are too few to
    estimate that part, so the interval is conservative.
    """
    seeds = scores.shape[0]
    std = float(scores.mean(axis=1).std(ddof=1)) if seeds > 1 else 0.0
    return _estimate(scores.mean(axis=0), [(std, seeds)], seed)


def estimate_difference(first: Scores, second: Scores, seed: int = 0) -> Estimate:
    """Mean of ``first`` [S, n] minus mean of ``second`` [R, n], on the same clips in the same order.

    Seeds of the two sides are treated as independent even if they have the same numbers: two or three pairs are too few
    to estimate the correlation that a shared initialisation causes.
    """
    sides = [(seed_std(scores), scores.shape[0]) for scores in (first, second)]
    return _estimate(first.mean(axis=0) - second.mean(axis=0), sides, seed)


def seed_std(scores: Scores) -> float:
    """Standard deviation between seeds that the finite number of clips does not explain, at least 0.

    Moment estimator of two-way random effects: variance of the seed means minus that of the seed-clip interaction
    (Searle, Casella & McCulloch 1992, section 4.3). 0 for a single seed.
    """
    seeds, clips = scores.shape
    if seeds == 1:
        return 0.0
    interaction = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    noise = np.square(interaction).sum() / ((seeds - 1) * (clips - 1)) / clips
    return float(np.sqrt(max(0.0, scores.mean(axis=1).var(ddof=1) - noise)))


def _estimate(gain: NDArray[np.float64], sides: Sequence[tuple[float, int]], seed: int) -> Estimate:
    """Mean of ``gain`` [n] over clips; ``sides``: standard deviation between seeds and number of seeds."""
    rng = np.random.default_rng(seed)
    replicates = bootstrap_means(gain, RESAMPLES, rng)
    for std, seeds in sides:
        if std > 0:
            replicates = replicates + std / np.sqrt(seeds) * rng.standard_t(seeds - 1, RESAMPLES)
    return Estimate(float(gain.mean()), *percentile_interval(replicates), _p_value(replicates))


def _p_value(replicates: NDArray[np.float64]) -> float:
    """Two-sided: the level at which the percentile interval begins to include zero."""
    below, above = np.sum(replicates <= 0), np.sum(replicates >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + replicates.size)))
