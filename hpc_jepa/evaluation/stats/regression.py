"""Errors of predicted numbers: mean absolute error and R² with intervals over test clips or source videos."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL, mean_of_clips
from hpc_jepa.evaluation.stats.metrics import clip_scores, scale_of

Numbers = NDArray[np.float64]

RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
"""Bounds the memory of the bootstrap."""


@dataclass(frozen=True)
class Errors:
    """Mean absolute error with its t interval, and R² with its bootstrap interval, both means over the probe seeds.

    constant: mean absolute error of the best constant, the median of the targets.
    """

    mae: float
    low: float
    high: float
    r2: float
    r2_low: float
    r2_high: float
    constant: float


def measure_errors(predicted: Numbers, targets: Numbers, clusters: NDArray[np.int64] | None = None) -> Errors:
    """Errors of predictions [S, n] of targets [n], which are not all equal.

    Clips of equal ``clusters`` [n] come from one source video: intervals are over source videos.
    """
    absolute = mean_of_clips(clip_scores("mae", predicted, targets), clusters, scale_of("mae", targets))
    squares = np.square(predicted - targets).mean(axis=0)
    low, high = _bootstrap_r2(squares, targets, np.arange(targets.size) if clusters is None else clusters)
    return Errors(
        mae=absolute.value,
        low=absolute.low,
        high=absolute.high,
        r2=float(1 - squares.mean() / targets.var()),
        r2_low=low,
        r2_high=high,
        constant=float(np.abs(targets - np.median(targets)).mean()),
    )


def _bootstrap_r2(squares: Numbers, targets: Numbers, clusters: NDArray[np.int64]) -> tuple[float, float]:
    """Percentile interval of R² over resampled clusters, always with the same random numbers."""
    numbers = np.unique(clusters, return_inverse=True)[1]
    centred = targets - targets.mean()
    columns = (np.ones_like(targets), centred, np.square(centred), squares)
    sums = np.stack([np.bincount(numbers, column) for column in columns], axis=1)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
        counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES_AT_ONCE)
        n, first, second, residual = (counts @ sums).T
        spread = second - np.square(first) / n
        varies = spread > 1e-12 * second.max()
        drawn.append(1 - residual[varies] / spread[varies])
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail])
    return float(low), float(high)
