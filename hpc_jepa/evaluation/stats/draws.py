"""Scores of test clips over draws of labels that all variants and pretraining seeds share, and the variance of draws.

Draws are a third sample beside seeds and clips, crossed with both. The variance of a mean over all three is that of
three-way clustering (Cameron, Gelbach & Miller 2011): what is in the variance of two of them is subtracted once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CountedScores(Mapping[int, Scores]):
    """Scores [n] by pretraining seed, mean over draws, computed when they are read from counts that need little memory.

    ``counts``: by seed [D, n], right answers of ``whole``; D is 1 without draws. ``metric``: shares of right answers
    [n] to scores [n], linear in the shares; None: the shares themselves.
    """

    counts: Mapping[int, NDArray[Any]]
    whole: int = 1
    metric: Callable[[Scores], Scores] | None = None

    def __getitem__(self, seed: int) -> Scores:
        return self._scored(self.counts[seed].mean(axis=0, dtype=np.float64) / self.whole)

    def __iter__(self) -> Iterator[int]:
        return iter(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __contains__(self, seed: object) -> bool:
        return seed in self.counts

    @property
    def draws(self) -> int:
        """Number of draws, 1 without."""
        return len(next(iter(self.counts.values())))

    def of_draws(self, seed: int) -> Scores:
        """[D, n]: scores of a seed under each draw."""
        return np.stack([self._scored(counts / self.whole) for counts in self.counts[seed]])

    def _scored(self, shares: Scores) -> Scores:
        return shares if self.metric is None else self.metric(shares)


@dataclass(frozen=True)
class DrawVariance:
    """Variance of a mean that draws add to those of seeds and clips. ``own`` and what is subtracted from it, with the
    degrees of freedom of each.
    """

    own: float = 0.0
    df: float = 1.0
    with_clips: float = 0.0
    with_clips_df: float = 1.0
    with_seeds: float = 0.0
    with_seeds_df: float = 1.0
    of_all: float = 0.0

    @property
    def added(self) -> float:
        """The variance, not below zero."""
        return max(0.0, self.own - self.with_clips - self.with_seeds + self.of_all)

    @property
    def all_variances(self) -> tuple[float, float, float]:
        """Those with degrees of freedom of their own."""
        return self.own, self.with_clips, self.with_seeds

    @property
    def all_df(self) -> tuple[float, float, float]:
        """Degrees of freedom of ``all_variances``."""
        return self.df, self.with_clips_df, self.with_seeds_df


NO_DRAWS = DrawVariance()


def draw_variance(sums: Scores, sizes: Scores) -> DrawVariance:
    """Of the mean of ``sums`` [S, D, G] of the scores of clips by cluster, whose ``sizes`` [G] are in clips."""
    seeds, draws, groups = sums.shape
    if draws < 2:
        return NO_DRAWS
    n, clip_df = float(sizes.sum()), max(1, groups - 1)
    over_seeds = sums.mean(axis=0)
    means = sums.sum(axis=2) / n
    of_draw = means.mean(axis=0)
    own = float(of_draw.var(ddof=1)) / draws
    scale = groups / clip_df / (draws - 1) / draws / n**2
    deviation = over_seeds - over_seeds.mean(axis=0)
    deviation = deviation - deviation.sum(axis=1, keepdims=True) / n * sizes
    with_clips = float(np.square(deviation).sum()) * scale
    found = DrawVariance(own, draws - 1, with_clips, (draws - 1) * clip_df)
    if seeds == 1:
        return found
    crossed = means - means.mean(axis=1, keepdims=True) - of_draw + means.mean()
    with_seeds = float(np.square(crossed).sum()) / (draws - 1) / (seeds - 1) / draws / seeds
    own_of_all = sums - sums.mean(axis=1, keepdims=True) - over_seeds + over_seeds.mean(axis=0)
    own_of_all = own_of_all - crossed[..., None] * sizes
    of_all = float(np.square(own_of_all).sum()) * scale / (seeds - 1) / seeds
    return DrawVariance(
        own, draws - 1, with_clips, (draws - 1) * clip_df, with_seeds, (draws - 1) * (seeds - 1), of_all
    )
