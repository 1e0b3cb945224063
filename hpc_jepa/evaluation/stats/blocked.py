"""Differences between variants of a study as a randomised block design: seeds are blocks, test clips are shared.

All variants of a pretraining seed share their starting weights, clips and masks, and are tested on the same clips. A
difference is therefore taken within each seed; what seeds and clips have in common on both sides cancels.

- Seeds: variance of the differences between seeds, moderated over all comparisons with the reference (`moderation`).
- Clips: variance of the gain of a clip, summed by cluster (source video) where clusters are known (Liang & Zeger 1986).
- Both parts contain the interaction of seeds and clips, so it is subtracted once (two-way clustering, Cameron, Gelbach
  & Miller 2011). Degrees of freedom by Satterthwaite (1946); interval and p-value from Student's t.
- Draws of labels, which few-shot scores have, are a third sample (`draws`).

Values are fractions in [0, 1], or on another ``Scale``, and differences of such.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr, stdtrit

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL, PROPORTION, Estimate, Scale, mean_of_clips
from hpc_jepa.evaluation.stats.draws import NO_DRAWS, CountedScores, DrawVariance, draw_variance
from hpc_jepa.evaluation.stats.moderation import VariancePrior, fit_prior, sampling_errors
from hpc_jepa.evaluation.stats.simultaneous import holm, simultaneous_level

Scores = NDArray[np.float64]
SeedScores = Mapping[int, Scores]
"""By pretraining seed: [n], the fraction of the probe seeds that classify test clip i correctly, or another score.
``CountedScores`` of several draws of labels add the variance of the draws.
"""

Method = Literal["blocked", "paired", "welch", "one_seed"]
Key = TypeVar("Key")

FEWEST_TO_MODERATE = 3
"""With fewer comparisons there is no distribution of variances to estimate: plain paired t."""

OUTLIER_LEVEL = 0.01
"""A comparison whose variance exceeds the prior at this level keeps its own variance."""

SHARE_MARGIN = 1.2
"""The estimated share of the reference is multiplied by this: few seeds underestimate it more often than not."""

CONTINUOUS_STEP = 1e-6
"""Smallest change of a continuous score, as a share of the root mean square of all."""

SHARED_CORRELATION = 0.5
"""Correlation of two comparisons with one reference if all variants vary alike; half of each variance is shared."""


FLOOR_DROP = 0.2
"""What few seeds of very many comparisons take off the least share of the reference, which is else that of equal
variants: with it, intervals of two seeds of 28 variants covered 97 to 98 %. Fitted to simulations.
"""


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

    def __neg__(self) -> "Comparison":
        """The reference minus the variant."""
        low, high = self.simultaneous
        return replace(self, value=-self.value, low=-self.high, high=-self.low, simultaneous=(-high, -low))

    @property
    def decided(self) -> Literal["gain", "loss"] | None:
        """Whether the family decides for a gain or a loss of the objective; never with one seed."""
        if self.seeds < 2 or not self.adjusted_p < 1 - CONFIDENCE_LEVEL:
            return None
        return "gain" if self.value > 0 else "loss"

    @property
    def standard_error(self) -> float:
        """Standard error of ``value``, recovered from its interval."""
        return (self.high - self.low) / 2 / -float(stdtrit(self.df, (1 - CONFIDENCE_LEVEL) / 2))


def compare_with_reference(
    variants: Mapping[str, SeedScores],
    reference: SeedScores,
    clusters: NDArray[np.int64] | None = None,
    scale: Scale = PROPORTION,
) -> dict[str, Comparison]:
    """Difference of every variant to ``reference`` on the same clips in the same order; one family.

    Each comparison uses the seeds that both sides have. Without a common seed it is unpaired (Welch 1947); with one,
    the variation between seeds is unknown and the interval is over test clips alone. ``clusters`` [n]: clips of equal
    numbers come from one source video.
    """
    if not variants:
        return {}
    clips = _Clips.of([*variants.values(), reference], clusters, scale)
    parts = _parts(variants, reference, clips)
    several = {name: part for name, part in parts.items() if part.method == "paired"}
    share = _reference_share(list(several.values()))
    moderated, pooled_df = _moderate(several, share)
    parts |= moderated
    found = dict(zip(parts, _comparisons(list(parts.values()), clips), strict=True))
    correlation = min(SHARED_CORRELATION, share) if len(several) > 1 else 0.0
    return adjust_family(found, correlation, pooled_df)


def estimate_contrast(
    variants: Mapping[str, SeedScores],
    weights: Mapping[str, float],
    clusters: NDArray[np.int64] | None = None,
    scale: Scale = PROPORTION,
) -> Comparison:
    """Sum of ``weights`` [name] times mean score, for example (a + ab - b - baseline) / 2 for a main effect.

    Uses the seeds that all weighted variants have. ``weights`` must sum to zero: then what all variants of a seed share
    cancels. Variants without a weight add their residual variance between seeds to the prior of the moderation.
    """
    weights = {name: weight for name, weight in weights.items() if weight}
    if not weights or abs(sum(weights.values())) > 1e-9:
        raise InputError(f"the weights of a contrast must sum to zero and not all be zero: {dict(weights)}")
    clips = _Clips.of([variants[name] for name in weights], clusters, scale)
    seeds = sorted(set.intersection(*(set(variants[name]) for name in weights)))
    if not seeds:
        raise InputError(f"no pretraining seed is common to {', '.join(weights)}")
    dropped = len(set().union(*(variants[name] for name in weights))) - len(seeds)
    sums = np.tensordot(list(weights.values()), np.stack([clips.sums(variants[name], seeds) for name in weights]), 1)
    signed = [(weight, variants[name]) for name, weight in weights.items()]
    (part,) = _paired_parts(sums[None], [dropped], clips, [clips.draw_variance(signed, seeds)])
    if part.method == "paired":
        complete = [clips.means(scores, seeds) for scores in variants.values() if set(seeds) <= set(scores)]
        part = _moderate_contrast(part, np.stack(complete), np.array(list(weights.values())), clips)
    return adjust_family({"": _comparisons([part], clips)[0]})[""]


def mean_score(scores: SeedScores, clusters: NDArray[np.int64] | None = None, scale: Scale = PROPORTION) -> Estimate:
    """Mean over seeds and clips with its 95 % interval. With one seed the interval is over test clips (and draws)
    alone.
    """
    clips, seeds = _Clips.of([scores], clusters, scale), sorted(scores)
    draws = clips.draw_variance([(1.0, scores)], seeds)
    if len(scores) == 1 and draws is NO_DRAWS:
        (only,) = scores.values()
        return mean_of_clips(only, clusters, scale)
    parts = _paired_parts(clips.sums(scores, seeds)[None], [0], clips, [draws])
    (found,) = _comparisons(parts, clips)
    return Estimate(found.value, max(scale.low, found.low), min(scale.high, found.high))


def adjust_family(
    comparisons: Mapping[Key, Comparison], correlation: float = 0.0, pooled_df: float = math.inf
) -> dict[Key, Comparison]:
    """Holm's p-values and simultaneous intervals over ``comparisons``; those of one seed are no members.

    ``correlation`` >= 0 between the estimates, and ``pooled_df`` of one variance that all share, make the simultaneous
    intervals narrower; the defaults are always safe.
    """
    members = [key for key, found in comparisons.items() if found.seeds > 1]
    if not members:
        return dict(comparisons)
    level = simultaneous_level(len(members), correlation, pooled_df, CONFIDENCE_LEVEL)
    adjusted = dict(comparisons)
    for key, p_value in zip(members, holm([comparisons[key].p_value for key in members]), strict=True):
        found = comparisons[key]
        margin = found.standard_error * -float(stdtrit(found.df, level / 2))
        interval = (found.value - margin, found.value + margin)
        adjusted[key] = replace(found, adjusted_p=p_value, simultaneous=interval)
    return adjusted


@dataclass(frozen=True)
class _Clips:
    """Test clips and their clusters: ``order`` sorts clips by cluster, whose first clips are at ``starts``.

    ``step``: see ``Scale``; of continuous scores a millionth of their root mean square, against rounding alone.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    sizes: Scores
    known: bool
    step: float = 1.0

    @classmethod
    def of(
        cls, scores: Sequence[SeedScores], clusters: NDArray[np.int64] | None, scale: Scale = PROPORTION
    ) -> "_Clips":
        """Checks that all ``scores`` are of the same number of clips, and that each has a cluster."""
        lengths = {values.size for seeds in scores for values in seeds.values()}
        if len(lengths) != 1 or not all(scores):
            raise InputError(f"scores of the same test clips needed, got {sorted(lengths)} clips: compare equal splits")
        (n,) = lengths
        step = scale.step
        if not step:
            squares = [np.square(values).mean() for seeds in scores for values in seeds.values()]
            step = CONTINUOUS_STEP * math.sqrt(float(np.mean(squares)))
        if clusters is None:
            return cls(np.arange(n), np.arange(n), np.ones(n), False, step)
        if clusters.shape != (n,):
            raise InputError(f"{clusters.size} clusters for {n} test clips: one number for every clip needed")
        order = np.argsort(clusters, kind="stable")
        _, starts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
        return cls(order, starts, sizes.astype(float), True, step)

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

    def means(self, scores: SeedScores, seeds: Sequence[int]) -> Scores:
        """[S]: mean score of each seed."""
        return np.array([float(np.mean(scores[seed])) for seed in seeds])

    def draw_variance(self, signed: Sequence[tuple[float, SeedScores]], seeds: Sequence[int]) -> DrawVariance:
        """Of the weighted sum of scores that all have the same draws of labels; else none."""
        counted = [(weight, scores) for weight, scores in signed if isinstance(scores, CountedScores)]
        draws = {scores.draws for _, scores in counted}
        if len(counted) < len(signed) or len(draws) != 1 or draws == {1}:
            return NO_DRAWS
        return self._variance_of_draws(
            np.stack([sum(weight * scores.of_draws(seed) for weight, scores in counted) for seed in seeds])
        )

    def unpaired_draw_variance(self, first: SeedScores, second: SeedScores) -> DrawVariance:
        """Of the difference of the means over the seeds of each side."""
        if not isinstance(first, CountedScores) or not isinstance(second, CountedScores):
            return NO_DRAWS
        if first.draws != second.draws or first.draws == 1:
            return NO_DRAWS
        means = [np.mean([side.of_draws(seed) for seed in side], axis=0) for side in (first, second)]
        return self._variance_of_draws((means[0] - means[1])[None])

    def _variance_of_draws(self, scores: Scores) -> DrawVariance:
        """Of the mean of ``scores`` [S, D, n]."""
        return draw_variance(np.add.reduceat(scores[..., self.order], self.starts, axis=2), self.sizes)


@dataclass(frozen=True)
class _Part:
    """A difference and the parts of its variance, each with degrees of freedom."""

    value: float
    method: Method
    seeds: int
    dropped_seeds: int
    means: Scores
    """[S]: difference of each common seed."""
    seed_variance: float
    """Of the mean over seeds."""
    seed_df: float
    clip_variance: float
    """Of the mean over seeds, between clusters of clips."""
    interaction: float
    """Contained in both variances."""
    interaction_df: float
    draws: DrawVariance = NO_DRAWS
    common: tuple[int, ...] = ()
    """Seeds of the means of a paired difference to the reference."""


def _parts(variants: Mapping[str, SeedScores], reference: SeedScores, clips: _Clips) -> dict[str, _Part]:
    """Differences to the reference, in the order of ``variants``; those over the same seeds are computed together."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, scores in variants.items():
        groups.setdefault(tuple(sorted(set(scores) & set(reference))), []).append(name)
    found: dict[str, _Part] = {}
    for seeds, names in groups.items():
        if not seeds:
            found |= {name: _unpaired_part(variants[name], reference, clips) for name in names}
            continue
        sums = np.stack([clips.sums(variants[name], seeds) for name in names]) - clips.sums(reference, seeds)
        dropped = [len(set(variants[name]) ^ set(reference)) for name in names]
        draws = [clips.draw_variance([(1.0, variants[name]), (-1.0, reference)], seeds) for name in names]
        parts = [replace(part, common=seeds) for part in _paired_parts(sums, dropped, clips, draws)]
        found |= dict(zip(names, parts, strict=True))
    return {name: found[name] for name in variants}


def _paired_parts(
    sums: Scores, dropped: Sequence[int], clips: _Clips, draws: Sequence[DrawVariance] | None = None
) -> list[_Part]:
    """Parts of the means of ``sums`` [m, S, G] over clips and seeds. ``draws``: variance of the draws of each."""
    _, seeds, groups = sums.shape
    drawn_by = draws or [NO_DRAWS] * len(sums)
    means, over_seeds = sums.sum(axis=2) / clips.n, sums.mean(axis=1)
    values = means.mean(axis=1)
    clip_variance = _over_clusters(over_seeds - values[:, None] * clips.sizes, clips)
    if seeds == 1:
        return [
            _Part(float(value), "one_seed", 1, lost, mean, 0.0, 1.0, float(variance), 0.0, 1.0, drawn)
            for value, lost, mean, variance, drawn in zip(values, dropped, means, clip_variance, drawn_by, strict=True)
        ]
    residual = sums - over_seeds[:, None] - (means - values[:, None])[..., None] * clips.sizes
    interaction = np.square(residual).sum(axis=(1, 2)) * groups / clips.df / (seeds - 1) / seeds / clips.n**2
    spread, least = means.var(axis=1, ddof=1), _rounding(clips)
    tied = np.maximum(interaction * seeds, least)  # equal to the last clip by chance: what the clips alone would vary
    seed_variance = np.where(spread < least, tied, spread) / seeds
    df = seeds - 1
    columns = zip(values, dropped, means, seed_variance, clip_variance, interaction, drawn_by, strict=True)
    return [
        _Part(float(value), "paired", seeds, lost, mean, float(a), df, float(b), float(c), df * clips.df, drawn)
        for value, lost, mean, a, b, c, drawn in columns
    ]


def _unpaired_part(scores: SeedScores, reference: SeedScores, clips: _Clips) -> _Part:
    """Difference of two sides without a common seed. Clips are the same on both."""
    sums = [clips.sums(side, sorted(side)) for side in (scores, reference)]
    gain = sums[0].mean(axis=0) - sums[1].mean(axis=0)
    value = float(gain.sum() / clips.n)
    variance = float(_over_clusters(gain - value * clips.sizes, clips))
    seeds = min(len(scores), len(reference))
    draws = clips.unpaired_draw_variance(scores, reference)
    if seeds == 1:
        dropped = len(scores) + len(reference) - 2
        return _Part(value, "one_seed", 1, dropped, np.array([value]), 0.0, 1.0, variance, 0.0, 1.0, draws)
    sides = [_paired_parts(side[None], [0], clips)[0] for side in sums]
    seed = [side.seed_variance for side in sides]
    return _Part(
        value,
        "welch",
        seeds,
        0,
        np.array([value]),
        sum(seed),
        float(satterthwaite(np.array(seed), np.array([side.seed_df for side in sides]), np.array(sum(seed)))),
        variance,
        sum(side.interaction for side in sides),
        sum(side.interaction_df for side in sides),
        draws,
    )


def _over_clusters(residuals: Scores, clips: _Clips) -> Scores:
    """Variances [...] of means over clips from ``residuals`` [..., G], sums by cluster of the deviations from the mean.

    At least that of two further clips, one right only on one side and one only on the other (Bonett & Price 2012):
    equal scores on all clips do not prove a difference of exactly their size.
    """
    groups = clips.sizes.size
    found = np.square(residuals).sum(axis=-1) * groups / clips.df / clips.n**2
    return np.asarray(np.maximum(found, 2 * clips.step**2 / (clips.n + 2) ** 2))


def _moderate(parts: Mapping[str, _Part], share: float) -> tuple[dict[str, _Part], float]:
    """Moderated variances between seeds; a comparison with a larger variance than the others' keeps its own.

    Also returns the degrees of freedom of the pooled variance, infinite if there is none that all comparisons share.

    All comparisons contain the seeds of the same reference, so that even their pooled variance has few degrees of
    freedom: the reference's ``share`` of it has only those of one variant. The prior is worth no more than that. The
    estimated share is drawn towards that of equal variants with the weight of one seed, and has a floor near it.
    Comparisons of more seeds weigh more: they know more runs of the reference.
    """
    if len(parts) < FEWEST_TO_MODERATE:
        return dict(parts), math.inf
    seeds = np.array([part.seeds for part in parts.values()])
    df = np.array([part.seed_df for part in parts.values()])
    variances = np.array([part.seed_variance for part in parts.values()]) * seeds
    most_df = float(df.max())
    likely = (most_df * share + SHARED_CORRELATION) / (most_df + 1)
    floor = SHARED_CORRELATION - FLOOR_DROP / most_df**2 * max(0.0, 1 - 5 / len(parts))
    shared = min(1.0, max(floor, SHARE_MARGIN * likely)) ** 2
    prior = fit_prior(variances, df, sampling_errors([part.common for part in parts.values()], shared))
    added = prior.added_df(df)
    moderated, _ = prior.moderate(variances, df)
    found = {
        name: part
        if _is_outlier(float(variances[i]), part.seed_df, prior)
        else replace(
            part,
            method="blocked",
            seed_variance=float(moderated[i]) / part.seeds,
            seed_df=part.seed_df + float(added[i]),
        )
        for i, (name, part) in enumerate(parts.items())
    }
    return found, prior.pooled_df if math.isinf(prior.df) else math.inf


def _moderate_contrast(part: _Part, means: Scores, weights: Scores, clips: _Clips) -> _Part:
    """Variance of a contrast moderated by the residual variances of all variants with its seeds, ``means`` [V, S].

    The prior of a weighted sum of k variants is k times as certain as that of one.
    """
    count = len(means)
    if count <= FEWEST_TO_MODERATE:
        return part
    residual = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    own = np.square(residual).sum(axis=1) / part.seed_df * count / (count - 1)
    variation = fit_prior(np.maximum(own, _rounding(clips)), np.full(count, part.seed_df)).df
    squares = float(np.square(weights).sum())
    effective = squares**2 / float((weights**4).sum())
    prior = VariancePrior(float(own.mean()) * squares, variation * effective, (count - 1) * part.seed_df)
    variance = part.seed_variance * part.seeds
    if _is_outlier(variance, part.seed_df, prior):
        return part
    moderated, _ = prior.moderate(np.array([variance]), np.array([part.seed_df]))
    df = part.seed_df + float(prior.added_df(np.array(part.seed_df)))
    return replace(part, method="blocked", seed_variance=float(moderated[0]) / part.seeds, seed_df=df)


def _rounding(clips: _Clips) -> float:
    """Variance of rounding a score to whole clips: two seeds can agree to the last clip by chance."""
    return clips.step**2 / 12 / clips.n**2


def _is_outlier(variance: float, df: float, prior: VariancePrior) -> bool:
    return variance > 0 and bool(fdtrc(df, min(prior.df, 1e8), variance / max(prior.variance, 1e-300)) < OUTLIER_LEVEL)


def _reference_share(parts: Sequence[_Part]) -> float:
    """Mean covariance of two comparisons over seeds by their mean variance: the share of the reference's variation."""
    most = max((part.seeds for part in parts), default=0)
    means = [part.means for part in parts if part.seeds == most]
    count = len(means)
    if count < 2:
        return SHARED_CORRELATION
    mean_variance = float(np.var(means, axis=1, ddof=1).mean())
    if mean_variance == 0:
        return SHARED_CORRELATION
    of_mean = float(np.mean(means, axis=0).var(ddof=1))
    covariance = (of_mean - mean_variance / count) * count / (count - 1)
    return min(1.0, max(0.0, covariance / mean_variance))


def _comparisons(parts: Sequence[_Part], clips: _Clips) -> list[Comparison]:
    """Intervals and p-values, not yet adjusted for a family."""
    values = np.array([part.value for part in parts])
    seed, between, both = (
        np.array([getattr(part, name) for part in parts]) for name in ("seed_variance", "clip_variance", "interaction")
    )
    clip = np.maximum(between - both, 0.0)
    used = np.where(clip > 0, 1.0, 0.0)
    drawn = np.array([part.draws.added for part in parts])
    df = satterthwaite(
        np.concatenate([np.stack([seed, used * between, used * both], axis=-1), _draw_parts(parts)], axis=-1),
        np.array([[part.seed_df, clips.df, part.interaction_df, *part.draws.all_df] for part in parts]),
        seed + clip + drawn,
    )
    error = np.sqrt(seed + clip + drawn)
    margins = -stdtrit(df, (1 - CONFIDENCE_LEVEL) / 2) * error
    p_values = np.where(values == 0, 1.0, 2 * stdtr(df, -np.abs(values) / np.maximum(error, 1e-300)))
    clusters = clips.sizes.size if clips.known else None
    return [
        Comparison(
            value=part.value,
            low=part.value - float(margin),
            high=part.value + float(margin),
            p_value=min(1.0, float(p_value)),
            adjusted_p=math.nan,
            simultaneous=(math.nan, math.nan),
            seeds=part.seeds,
            df=float(own_df),
            dropped_seeds=part.dropped_seeds,
            clusters=clusters,
            method=part.method,
        )
        for part, margin, p_value, own_df in zip(parts, margins, p_values, df, strict=True)
    ]


def _draw_parts(parts: Sequence[_Part]) -> Scores:
    """[m, 3]: variances between draws, and of their interactions with clips and seeds; zero where they add nothing."""
    return np.array([part.draws.all_variances if part.draws.added else (0.0, 0.0, 0.0) for part in parts])


def satterthwaite(variances: Scores, df: Scores, totals: Scores) -> Scores:
    """Degrees of freedom [...] of ``totals`` [...], sums of ``variances`` [..., k] with ``df`` each, at least 1.

    Satterthwaite (1946). ``totals`` is smaller than the sum if some of the parts are subtracted.
    """
    spread = (np.square(variances) / df).sum(axis=-1)
    return np.asarray(np.maximum(1.0, np.square(totals) / np.maximum(spread, 1e-300)))
