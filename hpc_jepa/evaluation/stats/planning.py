"""Power of a comparison before the runs: how many seeds a difference needs in a paired, blocked or unpaired design.

The power is that of the t test that `blocked` makes: its variance is that between seeds, which falls with their number,
plus that of the test clips, which does not. All values are fractions in [0, 1].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import nct, t

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.accuracy import PROPORTION, Scale
from hpc_jepa.evaluation.stats.blocked import (
    FEWEST_TO_MODERATE,
    SHARED_CORRELATION,
    SeedScores,
    compare_with_reference,
    satterthwaite,
)

Design = Literal["paired", "blocked", "unpaired"]
DESIGNS: tuple[Design, ...] = ("blocked", "paired", "unpaired")
"""blocked: all variants on the same seeds, variances between seeds moderated; paired: the same seeds, each comparison
on its own; unpaired: other seeds on each side.
"""

PRIOR_SHARE = 0.6
"""Of the degrees of freedom that the other comparisons can add, those that they do add: the prior is estimated.
Fitted to the simulated power of 8 and 27 comparisons with 2 to 5 seeds, where it was between 0.58 and 0.74.
"""

POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Spread:
    """How accuracies vary. ``seeds``: standard deviation between the pretraining seeds of one variant, which includes
    what the finite number of clips adds. ``correlation``: of two variants with the same seed. ``clips``: test clips.

    ``clip_error``: standard error that the choice of the test clips gives a difference, for any number of seeds; None:
    the least that a difference implies, if every clip that it changes changes in one direction.
    """

    seeds: float
    correlation: float
    clips: int
    clip_error: float | None = None

    def difference_variance(self, design: Design) -> float:
        """Variance between seeds of a difference, for one seed on each side."""
        shared = 0.0 if design == "unpaired" else self.correlation
        return 2 * self.seeds**2 * (1 - shared)

    def clip_variance(self, difference: float) -> float:
        """Variance of a difference over test clips."""
        if self.clip_error is not None:
            return self.clip_error**2
        gain = min(abs(difference), 1.0)
        return gain * (1 - gain) / self.clips


@dataclass(frozen=True)
class FamilyTest:
    """Error of a family of ``comparisons``, whose smallest p-value must pass ``level`` (Holm)."""

    error: float = 0.05
    comparisons: int = 1

    @property
    def level(self) -> float:
        """Two-sided level of one comparison."""
        return self.error / self.comparisons


def power(spread: Spread, design: Design, difference: float, seeds: int, test: FamilyTest) -> float:
    """Probability that a true ``difference`` is found, in the right direction or not, with ``seeds`` >= 2 a side."""
    parts = np.array([spread.difference_variance(design) / seeds, spread.clip_variance(difference)])
    parts_df = np.array([_seed_df(design, seeds, test.comparisons), max(spread.clips - 1, 1)])
    df, error = float(satterthwaite(parts, parts_df, parts.sum())), math.sqrt(parts.sum())
    if error == 0:
        return 1.0 if difference else test.level
    critical, shift = float(t.isf(test.level / 2, df)), abs(difference) / error
    return float(np.nan_to_num(nct.sf(critical, df, shift), nan=1.0) + np.nan_to_num(nct.cdf(-critical, df, shift)))


def seeds_needed(
    spread: Spread, design: Design, difference: float, test: FamilyTest, target: float = POWER
) -> int | None:
    """Smallest number of seeds with at least the ``target`` power; None if MOST_SEEDS do not reach it.

    The power rises with the number of seeds, so the smallest one is bisected.
    """

    def enough(seeds: int) -> bool:
        return power(spread, design, difference, seeds, test) >= target

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_difference(standard_error: float, df: float, test: FamilyTest, target: float = POWER) -> float:
    """Smallest true difference that a comparison of a finished study, with its ``standard_error`` and ``df``, finds
    with the ``target`` power in the right direction.
    """
    critical = float(t.isf(test.level / 2, df))
    return standard_error * float(brentq(lambda shift: float(nct.sf(critical, df, shift)) - target, 0, 50 * critical))


def clips_needed(spread: Spread, difference: float, test: FamilyTest, target: float = POWER) -> int:
    """Test clips that leave half of the variance which this ``difference`` allows to the seeds."""
    normal = float(t.isf(test.level / 2, 1e6) + t.isf(1 - target, 1e6))
    allowed = (difference / normal) ** 2 / 2
    return math.ceil(spread.clips * spread.clip_variance(difference) / allowed)


def estimate_spread(
    variants: Mapping[str, SeedScores],
    reference: SeedScores,
    clusters: NDArray[np.int64] | None = None,
    scale: Scale = PROPORTION,
) -> Spread:
    """Spread of a pilot: pooled over its variants. Raises InputError if no two seeds are common to a variant and the
    reference.
    """
    found = compare_with_reference(variants, reference, clusters, scale)
    common = {name: sorted(set(variants[name]) & set(reference)) for name in variants}
    paired = [name for name in variants if len(common[name]) > 1]
    if not paired:
        raise InputError("the pilot has no variant with two seeds that its reference has too; their spread is unknown")
    own = [_variance(scores) for scores in (reference, *variants.values()) if len(scores) > 1]
    differences = {
        name: _variance({seed: variants[name][seed] - reference[seed] for seed in common[name]}) for name in paired
    }
    within, between = float(np.mean(own)), float(np.mean(list(differences.values())))
    total = np.mean([found[name].standard_error ** 2 for name in paired])
    seed_part = np.mean([differences[name] / len(common[name]) for name in paired])
    correlation = 1 - between / 2 / within if within else 0.0
    return Spread(
        seeds=math.sqrt(within),
        correlation=float(np.clip(correlation, -1.0, 1.0)),
        clips=next(iter(reference.values())).size,
        clip_error=math.sqrt(max(float(total - seed_part), 0.0)),
    )


def _seed_df(design: Design, seeds: int, comparisons: int) -> float:
    """Degrees of freedom of the variance between seeds, if all variants vary alike."""
    if design == "unpaired":
        return 2.0 * (seeds - 1)
    if design == "paired" or comparisons < FEWEST_TO_MODERATE:
        return seeds - 1.0
    shared = SHARED_CORRELATION**2
    pooled = (seeds - 1) / (shared + (1 - shared) / comparisons)
    return seeds - 1 + PRIOR_SHARE * (pooled - seeds + 1)


def _variance(scores: SeedScores) -> float:
    return float(np.var([values.mean() for values in scores.values()], ddof=1))
