"""Differences between variants of a study as a randomised block design: seeds are blocks, test clips are shared.

All variants of a pretraining seed share their starting weights, clips and masks, and are tested on the same clips. A
difference is therefore taken within each seed; what seeds and clips have in common on both sides cancels.

- Seeds: variance of the differences between seeds, moderated over all comparisons with the reference (`moderation`).
- Clips: variance of the gain of a clip, summed by cluster (source video) where clusters are known (Liang & Zeger 1986).
- Both parts contain the interaction of seeds and clips, so it is subtracted once (two-way clustering, Cameron, Gelbach
  & Miller 2011). Degrees of freedom by Satterthwaite (1946); interval and p-value from Student's t.

All values are fractions in [0, 1] or differences of such.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f as f_distribution
from scipy.stats import t

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.moderation import VariancePrior, fit_prior
from hpc_jepa.evaluation.stats.paired import CONFIDENCE_LEVEL, Estimate
from hpc_jepa.evaluation.stats.simultaneous import holm, simultaneous_level

Scores = NDArray[np.float64]
SeedScores = Mapping[int, Scores]
"""By pretraining seed: [n], the fraction of the probe seeds that classify test clip i correctly."""

Method = Literal["blocked", "paired", "welch", "one_seed"]
Key = TypeVar("Key")

FEWEST_TO_MODERATE = 3
"""With fewer comparisons there is no distribution of variances to estimate: plain paired t."""

OUTLIER_LEVEL = 0.01
"""A comparison whose variance exceeds the prior at this level keeps its own variance."""

SHARED_CORRELATION = 0.5
"""Correlation of two comparisons with one reference if all variants vary alike; half of each variance is shared."""


@dataclass(frozen=True)
class Comparison:
    """Difference of a variant to its reference, or a contrast: 95 % interval, p-value against zero, how it was found.

    ``adjusted_p`` and ``simultaneous`` hold for all comparisons of the family together; they are NaN with one seed,
    whose interval is over test clips alone. ``dropped_seeds``: seeds that only one side has. ``clusters``: number of
    source videos, None if clips are taken as independent.
    """

    value: float
    low: float
    high: float
    p_value: float
    adjusted_p: float
    simultaneous: tuple[float, float]
    seeds: int
    df: float
    dropped_seeds: int
    clusters: int | None
    method: Method

    @property
    def decided(self) -> Literal["gain", "loss"] | None:
        """Whether the family decides for a gain or a loss of the objective; never with one seed."""
        if self.seeds < 2 or not self.adjusted_p < 1 - CONFIDENCE_LEVEL:
            return None
        return "gain" if self.value > 0 else "loss"

    @property
    def standard_error(self) -> float:
        """Standard error of ``value``, recovered from its interval."""
        return (self.high - self.low) / 2 / float(t.isf((1 - CONFIDENCE_LEVEL) / 2, self.df))


def compare_with_reference(
    variants: Mapping[str, SeedScores], reference: SeedScores, clusters: NDArray[np.int64] | None = None
) -> dict[str, Comparison]:
    """Difference of every variant to ``reference`` on the same clips in the same order; one family.

    Each comparison uses the seeds that both sides have. Without a common seed it is unpaired (Welch 1947); with one,
    the variation between seeds is unknown and the interval is over test clips alone. ``clusters`` [n]: clips of equal
    numbers come from one source video.
    """
    clips = _Clips.of([*variants.values(), reference], clusters)
    parts = {name: _difference(scores, reference, clips) for name, scores in variants.items()}
    paired = {name: part for name, part in parts.items() if part.method == "paired"}
    parts |= _moderate(paired, clips)
    found = {name: _comparison(part, clips) for name, part in parts.items()}
    return adjust_family(found, _shared_correlation(list(paired.values())))


def estimate_contrast(
    variants: Mapping[str, SeedScores], weights: Mapping[str, float], clusters: NDArray[np.int64] | None = None
) -> Comparison:
    """Sum of ``weights`` [name] times mean score, for example (a + ab - b - baseline) / 2 for a main effect.

    Uses the seeds that all weighted variants have. ``weights`` must sum to zero: then what all variants of a seed share
    cancels. Variants without a weight add their residual variance between seeds to the prior of the moderation.
    """
    weights = {name: weight for name, weight in weights.items() if weight}
    if not weights or abs(sum(weights.values())) > 1e-9:
        raise InputError(f"the weights of a contrast must sum to zero and not all be zero: {dict(weights)}")
    clips = _Clips.of([variants[name] for name in weights], clusters)
    seeds = sorted(set.intersection(*(set(variants[name]) for name in weights)))
    if not seeds:
        raise InputError(f"no pretraining seed is common to {', '.join(weights)}")
    dropped = len(set().union(*(variants[name] for name in weights))) - len(seeds)
    sums = sum(weight * clips.sums(variants[name], seeds) for name, weight in weights.items())
    part = _paired_part(np.asarray(sums), dropped, clips)
    if part.method == "paired":
        part = _moderate_contrast(part, variants, weights, clips)
    return adjust_family({"": _comparison(part, clips)})[""]


def mean_score(scores: SeedScores, clusters: NDArray[np.int64] | None = None) -> Estimate:
    """Mean over seeds and clips with its 95 % interval. With one seed the interval is over test clips alone."""
    clips = _Clips.of([scores], clusters)
    part = _paired_part(clips.sums(scores, sorted(scores)), 0, clips)
    found = _comparison(part, clips)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))


def adjust_family(comparisons: Mapping[Key, Comparison], correlation: float = 0.0) -> dict[Key, Comparison]:
    """Holm's p-values and simultaneous intervals over ``comparisons``; those of one seed are no members.

    ``correlation`` >= 0 between the estimates makes the simultaneous intervals narrower; 0 is always safe.
    """
    members = [key for key, found in comparisons.items() if found.seeds > 1]
    if not members:
        return dict(comparisons)
    df = float(np.median([comparisons[key].df for key in members]))
    level = simultaneous_level(len(members), correlation, df, CONFIDENCE_LEVEL)
    adjusted = dict(comparisons)
    for key, p_value in zip(members, holm([comparisons[key].p_value for key in members]), strict=True):
        found = comparisons[key]
        margin = found.standard_error * float(t.isf(level / 2, found.df))
        interval = (found.value - margin, found.value + margin)
        adjusted[key] = replace(found, adjusted_p=p_value, simultaneous=interval)
    return adjusted


@dataclass(frozen=True)
class _Clips:
    """Test clips and their clusters: ``order`` sorts clips by cluster, whose first clips are at ``starts``."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    sizes: Scores
    known: bool

    @classmethod
    def of(cls, scores: Sequence[SeedScores], clusters: NDArray[np.int64] | None) -> "_Clips":
        """Checks that all ``scores`` are of the same number of clips, and that each has a cluster."""
        lengths = {values.size for seeds in scores for values in seeds.values()}
        if len(lengths) != 1 or not all(scores):
            raise InputError(f"scores of the same test clips needed, got {sorted(lengths)} clips: compare equal splits")
        (n,) = lengths
        if clusters is None:
            return cls(np.arange(n), np.arange(n), np.ones(n), False)
        if clusters.shape != (n,):
            raise InputError(f"{clusters.size} clusters for {n} test clips: one number for every clip needed")
        order = np.argsort(clusters, kind="stable")
        _, starts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
        return cls(order, starts, sizes.astype(float), True)

    @property
    def n(self) -> float:
        """Number of clips."""
        return float(self.sizes.sum())

    @property
    def df(self) -> int:
        """Degrees of freedom of a variance over clusters, at least 1."""
        return max(1, self.sizes.size - 1)

    def sums(self, scores: SeedScores, seeds: Sequence[int]) -> Scores:
        """[S, G]: sums of scores over the clips of each cluster."""
        stacked = np.stack([np.asarray(scores[seed], float) for seed in seeds])
        return np.add.reduceat(stacked[:, self.order], self.starts, axis=1) if self.known else stacked


@dataclass(frozen=True)
class _Part:
    """A difference and the two parts of its variance, with degrees of freedom."""

    value: float
    method: Method
    seeds: int
    dropped_seeds: int
    means: Scores
    """[S]: difference of each common seed."""
    seed_variance: float
    """Between seeds, for one seed."""
    seed_df: float
    clip_variance: float
    """Of the mean over seeds."""
    interaction: float
    interaction_df: float


def _difference(scores: SeedScores, reference: SeedScores, clips: _Clips) -> _Part:
    common = sorted(set(scores) & set(reference))
    dropped = len(set(scores) ^ set(reference))
    if common:
        return _paired_part(clips.sums(scores, common) - clips.sums(reference, common), dropped, clips)
    ours, theirs = (_paired_part(clips.sums(side, sorted(side)), 0, clips) for side in (scores, reference))
    first, second = (clips.sums(side, sorted(side)).mean(axis=0) for side in (scores, reference))
    value = float((first - second).sum() / clips.n)
    variance = _over_clusters(first - second - value * clips.sizes, clips)
    if min(ours.seeds, theirs.seeds) == 1:
        return _Part(value, "one_seed", 1, dropped, np.array([value]), 0.0, 1, variance, 0.0, 1)
    shares = [part.seed_variance / part.seeds for part in (ours, theirs)]
    df = satterthwaite(shares, [ours.seed_df, theirs.seed_df])
    seeds = min(ours.seeds, theirs.seeds)
    interaction = ours.interaction + theirs.interaction
    return _Part(
        value,
        "welch",
        seeds,
        0,
        np.array([value]),
        sum(shares) * seeds,
        df,
        variance,
        interaction,
        ours.interaction_df + theirs.interaction_df,
    )


def _paired_part(sums: Scores, dropped: int, clips: _Clips) -> _Part:
    """Parts of the mean of ``sums`` [S, G] over clips and seeds."""
    seeds, groups = sums.shape
    means, over_seeds = sums.sum(axis=1) / clips.n, sums.mean(axis=0)
    value = float(means.mean())
    clip_variance = _over_clusters(over_seeds - value * clips.sizes, clips)
    if seeds == 1:
        return _Part(value, "one_seed", 1, dropped, means, 0.0, 1, clip_variance, 0.0, 1)
    residual = sums - over_seeds - (means - value)[:, None] * clips.sizes
    scale = groups / clips.df / (seeds - 1) / seeds / clips.n**2
    interaction = float(np.square(residual).sum()) * scale
    seed_variance = float(means.var(ddof=1))
    df = seeds - 1
    return _Part(value, "paired", seeds, dropped, means, seed_variance, df, clip_variance, interaction, df * clips.df)


def _over_clusters(residuals: Scores, clips: _Clips) -> float:
    """Variance of a mean over clips from ``residuals`` [G], sums by cluster of the deviations from that mean.

    At least that of two further clusters, one right only on one side and one only on the other (Bonett & Price 2012):
    equal scores on all clips do not prove a difference of exactly their size.
    """
    groups = clips.sizes.size
    smallest = 2 / (groups + 2) ** 2
    return max(smallest, float(np.square(residuals).sum()) * groups / clips.df / clips.n**2)


def _moderate(parts: Mapping[str, _Part], clips: _Clips) -> dict[str, _Part]:
    """Moderated variances between seeds; a comparison with a larger variance than the others' keeps its own."""
    if len(parts) < FEWEST_TO_MODERATE:
        return dict(parts)
    variances = np.array([part.seed_variance for part in parts.values()])
    df = np.array([part.seed_df for part in parts.values()])
    prior = fit_prior(np.maximum(variances, _rounding(clips)), df)
    moderated, moderated_df = prior.moderate(variances, df)
    shared = max(SHARED_CORRELATION, _reference_share(list(parts.values()))) ** 2
    cap = df / (shared + (1 - shared) / len(parts))
    return {
        name: part
        if _is_outlier(part, prior)
        else replace(
            part,
            method="blocked",
            seed_variance=float(moderated[i]),
            seed_df=float(min(moderated_df[i], cap[i])),
        )
        for i, (name, part) in enumerate(parts.items())
    }


def _moderate_contrast(
    part: _Part, variants: Mapping[str, SeedScores], weights: Mapping[str, float], clips: _Clips
) -> _Part:
    """Variance of a contrast moderated by the residual variance of all complete variants of its seeds."""
    seeds = sorted(set.intersection(*(set(variants[name]) for name in weights)))
    complete = [scores for scores in variants.values() if set(seeds) <= set(scores)]
    if len(complete) <= FEWEST_TO_MODERATE:
        return part
    means = np.stack([clips.sums(scores, seeds).sum(axis=1) for scores in complete]) / clips.n
    residual = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    count = len(complete)
    own = np.square(residual).sum(axis=1) / part.seed_df * count / (count - 1)
    prior = fit_prior(np.maximum(own, _rounding(clips)), np.full(count, part.seed_df))
    norm = sum(weight**2 for weight in weights.values())
    scaled = VariancePrior(prior.variance * norm, prior.df)
    if _is_outlier(part, scaled):
        return part
    variance, df = scaled.moderate(np.array([part.seed_variance]), np.array([part.seed_df]))
    seed_df = min(float(df[0]), (count - 1) * part.seed_df)
    return replace(part, method="blocked", seed_variance=float(variance[0]), seed_df=seed_df)


def _rounding(clips: _Clips) -> float:
    """Variance of rounding a score to whole clips: two seeds can agree to the last clip by chance."""
    return 1 / 12 / clips.n**2


def _is_outlier(part: _Part, prior: VariancePrior) -> bool:
    if prior.variance == 0:
        return part.seed_variance > 0
    ratio = part.seed_variance / prior.variance
    return bool(f_distribution.sf(ratio, part.seed_df, min(prior.df, 1e8)) < OUTLIER_LEVEL)


def _reference_share(parts: Sequence[_Part]) -> float:
    """Mean covariance of two comparisons over seeds by their mean variance: the share of the reference's variation."""
    seeds = {part.seeds for part in parts}
    if len(seeds) != 1 or len(parts) < 2:
        return SHARED_CORRELATION
    means = np.stack([part.means for part in parts])
    count = len(parts)
    mean_variance = float(means.var(axis=1, ddof=1).mean())
    if mean_variance == 0:
        return SHARED_CORRELATION
    of_mean = float(means.mean(axis=0).var(ddof=1))
    covariance = (of_mean - mean_variance / count) * count / (count - 1)
    return min(1.0, max(0.0, covariance / mean_variance))


def _shared_correlation(parts: Sequence[_Part]) -> float:
    """Correlation of comparisons for simultaneous intervals, at most that of equal variants."""
    return min(SHARED_CORRELATION, _reference_share(parts)) if len(parts) > 1 else 0.0


def _comparison(part: _Part, clips: _Clips) -> Comparison:
    clip = max(part.clip_variance - part.interaction, 0.0) if part.seeds > 1 else part.clip_variance
    seed = part.seed_variance / part.seeds if part.seeds > 1 else 0.0
    if part.seeds == 1:
        df = float(clips.df)
    elif clip == 0:
        df = part.seed_df
    else:
        parts = [seed, part.clip_variance, part.interaction]
        df = satterthwaite(parts, [part.seed_df, clips.df, part.interaction_df], seed + clip)
    error = math.sqrt(seed + clip)
    margin = error * float(t.isf((1 - CONFIDENCE_LEVEL) / 2, df))
    p_value = 1.0 if part.value == 0 else float(2 * t.sf(abs(part.value) / error, df)) if error else 0.0
    clusters = clips.sizes.size if clips.known else None
    nothing = (math.nan, math.nan)
    return Comparison(
        part.value,
        part.value - margin,
        part.value + margin,
        p_value,
        math.nan,
        nothing,
        part.seeds,
        df,
        part.dropped_seeds,
        clusters,
        part.method,
    )


def satterthwaite(variances: Sequence[float], df: Sequence[float], total: float | None = None) -> float:
    """Degrees of freedom of a sum of independent ``variances`` with ``df`` each (Satterthwaite 1946).

    ``total`` is their sum unless some are subtracted. Infinite ``df`` are allowed; 1 at least.
    """
    total = sum(variances) if total is None else total
    spread = sum(variance**2 / own for variance, own in zip(variances, df, strict=True))
    return max(1.0, total**2 / spread) if spread > 0 else max(1.0, min(df))
