"""Accuracy of few-shot episodes with an interval over episodes and over the test clips that they draw from."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL, Estimate
from hpc_jepa.evaluation.stats.blocked import satterthwaite


@dataclass(frozen=True)
class Episodes:
    """E episodes on one test set: rows of the clips ``queries`` [E, Q] and ``supports`` [E, K]; ``right`` [E, Q]."""

    queries: NDArray[np.int64]
    supports: NDArray[np.int64]
    right: NDArray[np.bool_]

    @property
    def shares(self) -> NDArray[np.float64]:
        """[E]: share of right queries."""
        return np.asarray(self.right.mean(axis=1))


def episode_accuracy(episodes: Episodes, clusters: NDArray[np.int64]) -> Estimate:
    """Mean share of right queries with the 95 % interval for new episodes of new test clips.

    ``clusters`` [n]: clips of equal numbers come from one source video. The variance is that of the mean over episodes,
    plus that of the test clips: the sum over clusters of the squared influence of their clips (first-order projection,
    Hoeffding 1948; of subsampling, Efron 2014). A clip acts as query by its own answer, and as support by the accuracy
    of the episodes that contain it; what chance adds to the squares is subtracted. Degrees of freedom by Satterthwaite.
    """
    shares, right = episodes.shares, episodes.right
    value, count = float(shares.mean()), right.size
    numbers = np.unique(clusters, return_inverse=True)[1]
    size = int(numbers.max()) + 1
    residual = right - value
    of_episode = residual.sum(axis=1)
    as_query = np.bincount(numbers[episodes.queries.ravel()], residual.ravel(), size)
    supports = episodes.supports.shape[1]
    as_support = np.bincount(numbers[episodes.supports.ravel()], np.repeat(of_episode, supports), size)
    between = float(np.square(of_episode).sum()) / count**2
    queries_alone = float(np.square(as_query).sum()) / count**2
    both = float(np.square(as_query + as_support).sum()) / count**2 - supports * between
    groups = np.count_nonzero(np.bincount(numbers[episodes.queries.ravel()], minlength=size))
    clip_df = max(1, groups - 1)
    clips = max(queries_alone, both) * groups / clip_df
    parts = np.array([between, clips])
    df = float(satterthwaite(parts, np.array([len(shares) - 1.0, clip_df]), parts.sum()))
    margin = float(stdtrit(df, (1 + CONFIDENCE_LEVEL) / 2)) * math.sqrt(float(parts.sum()))
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin))
