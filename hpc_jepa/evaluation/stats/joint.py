"""Mean scores of several variants on several benchmarks together, and draws of what chance could have made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.blocked import SeedScores

DRAWS = 2000


@dataclass(frozen=True)
class BenchmarkScores:
    """Scores of all variants on the test clips of one benchmark. ``clusters`` [n]: source videos, None if unknown."""

    variants: Sequence[SeedScores]
    clusters: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class JointMeans:
    """``values`` [V, B]: means of V variants on B benchmarks over ``seeds`` common seeds. ``draws`` [D, V, B]."""

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    seeds: int


def joint_means(benchmarks: Sequence[BenchmarkScores], draws: int = DRAWS, seed: int = 0) -> JointMeans | None:
    """Means over the seeds that all variants have on all benchmarks; None if there is none.

    Draws vary by two errors, both normal. Between seeds: the residuals of the two-way table of variants and seeds,
    which are free of the luck that all variants of a seed share, pooled over variants; one run is tested on all
    benchmarks, so its residuals on them are correlated. With one seed this part is unknown and left out. Between test
    clips: by cluster, the same clips for all variants. What both contain counts twice, so draws vary rather too much.
    """
    common = set.intersection(*(set(scores) for benchmark in benchmarks for scores in benchmark.variants))
    if not common:
        return None
    seeds = sorted(common)
    rng = np.random.default_rng(seed)
    means = np.stack([[[np.mean(scores[s]) for s in seeds] for scores in one.variants] for one in benchmarks])
    values = means.mean(axis=2).T
    drawn = values[None] + _clip_errors(benchmarks, seeds, draws, rng)
    if len(seeds) > 1:
        drawn = drawn + _seed_errors(means, draws, rng)
    return JointMeans(values, drawn, len(seeds))


def _seed_errors(means: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Errors [D, V, B] of means over seeds, from ``means`` [B, V, S]."""
    count, variants, seeds = means.shape
    residual = means - means.mean(axis=2, keepdims=True) - means.mean(axis=1, keepdims=True)
    residual += means.mean(axis=(1, 2), keepdims=True)
    covariance = np.einsum("avs,bvs->ab", residual, residual) / max(1, (variants - 1) * (seeds - 1)) / seeds
    return rng.multivariate_normal(np.zeros(count), covariance, size=(draws, variants), method="eigh")


def _clip_errors(
    benchmarks: Sequence[BenchmarkScores], seeds: Sequence[int], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Errors [D, V, B] of means over test clips."""
    errors = []
    for benchmark in benchmarks:
        scores = np.stack([np.mean([one[s] for s in seeds], axis=0) for one in benchmark.variants])
        n = scores.shape[1]
        clusters = np.arange(n) if benchmark.clusters is None else benchmark.clusters
        if clusters.shape != (n,):
            raise InputError(f"{clusters.size} clusters for {n} test clips: one number for every clip needed")
        residual = scores - scores.mean(axis=1, keepdims=True)
        _, places = np.unique(clusters, return_inverse=True)
        sums = np.stack([np.bincount(places, weights=row) for row in residual])
        groups = sums.shape[1]
        covariance = sums @ sums.T * groups / max(1, groups - 1) / n**2
        errors.append(rng.multivariate_normal(np.zeros(len(scores)), covariance, size=draws, method="eigh"))
    return np.stack(errors, axis=2)
