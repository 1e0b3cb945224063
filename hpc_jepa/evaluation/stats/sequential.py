"""Sequential comparisons: which ones are decided at a look, and the error that each look may spend.

A group-sequential design on the p-values of the blocked comparison (Jennison & Turnbull 2000). The error of each
comparison is spent over the looks (Lan & DeMets 1983), so that the levels of all looks follow from the rule alone,
before the first look. Holm's step-down over the comparisons at every look is valid for such levels (Maurer & Bretz
2013).

- gain or loss: spending of O'Brien and Fleming's kind, nearly all of the error at the last look;
- equal: two one-sided tests against the margin (Schuirmann 1987), spending in proportion to the seeds;
- hopeless: the predictive probability of a gain or loss at the last look is below the futility limit. It decides
  nothing and cannot add false gains or losses. Where looks at a prefix of the steps select for a confirmation, it is
  that of a gain on the fresh seeds, also at the last look.

The information at a look is its share of the seeds. What the test clips add to the error is common to all looks, so
that looks agree more than this assumes: the levels are then on the safe side.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr

from hpc_jepa.evaluation.stats.blocked import Comparison
from hpc_jepa.evaluation.stats.simultaneous import holm

Decision = Literal["gain", "loss", "equal", "hopeless", "open"]
Key = TypeVar("Key", bound=Hashable)
Values = NDArray[np.float64]

FINAL: tuple[Decision, ...] = ("gain", "loss", "equal")
"""Decisions that hold whatever comes later."""

CONFIRMED: tuple[Decision, ...] = ("gain", "open")
"""Decisions of the last look after which a comparison goes on to the confirmation."""

METHOD = "group-sequential, Holm over comparisons"
SPENDING = {"gain or loss": "O'Brien-Fleming", "equal": "linear"}
"""How the error is spent over the looks."""

NODES = 200
"""Nodes of the integral over the estimates at which the previous look went on."""
FARTHEST = 9.0
"""Standard deviations beyond which an estimate is not integrated."""


@dataclass(frozen=True)
class SequentialRule:
    """The rule of a study, fixed before its first look.

    ``looks``: seeds at each look. ``error``: family-wise, of gains and losses, and of equals. ``margin``: fraction in
    [0, 1]. ``comparisons``: size of the family. ``confirmation``: fresh seeds for which looks at a prefix of the steps
    select; 0: the looks are at all steps.
    """

    looks: tuple[int, ...]
    error: float
    margin: float
    futility: float
    comparisons: int
    confirmation: int = 0

    def difference_level(self, look: int, found: int = 0) -> float:
        """Two-sided p-value at which look ``look`` (from 0) decides a gain or loss when ``found`` are decided."""
        side = self.error / 2 / max(self.comparisons - found, 1)
        return 2 * float(ndtr(-_difference_bounds(self.looks, side)[look]))

    def equal_level(self, look: int, found: int = 0) -> float:
        """Larger one-sided p-value of the two tests against the margin at which ``look`` decides an equal."""
        side = self.error / max(self.comparisons - found, 1)
        return float(ndtr(-_equal_bounds(self.looks, side)[look]))

    def decide(
        self, look: int, comparisons: Mapping[Key, Comparison], before: Mapping[Key, Decision]
    ) -> dict[Key, Decision]:
        """Decisions after ``look``: those ``before`` that are final, and new ones of ``comparisons``.

        Comparisons of one seed stay open. A comparison that is missing keeps its decision before, else is open.
        """
        decisions: dict[Key, Decision] = {key: before.get(key, "open") for key in {**before, **comparisons}}
        tested = {key: found for key, found in comparisons.items() if found.seeds > 1 and decisions[key] not in FINAL}
        decisions |= self._differences(look, tested, decisions)
        tested = {key: found for key, found in tested.items() if decisions[key] not in FINAL}
        decisions |= self._equals(look, tested, decisions)
        differences = _count(decisions, "gain", "loss")
        decides = look == len(self.looks) - 1 and not self.confirmation
        for key, found in tested.items():
            if decisions[key] not in FINAL:
                hopeless = not decides and self.chance(look, found, differences) < self.futility
                decisions[key] = "hopeless" if hopeless else "open"
        return decisions

    def confirm(self, comparisons: Mapping[Key, Comparison]) -> dict[Key, Decision]:
        """Decisions on fresh seeds alone, by Holm's method; those of one seed stay open."""
        tested = {key: found for key, found in comparisons.items() if found.seeds > 1}
        decisions: dict[Key, Decision] = dict.fromkeys(comparisons, "open")
        for key, p_value in zip(tested, holm([found.p_value for found in tested.values()]), strict=True):
            if p_value <= self.error:
                decisions[key] = "gain" if tested[key].value > 0 else "loss"
        return decisions

    def chance(self, look: int, comparison: Comparison, found: int = 0) -> float:
        """Predictive probability that the last look decides a gain or loss, without a prior opinion on its size; of
        looks that select, that the confirmation finds a gain at the first level of Holm's method over all comparisons,
        if the difference after all steps is as large as after the prefix.

        Jennison & Turnbull (2000), section 10.3, on the normal score of the p-value.
        """
        if self.confirmation:
            return self._chance_of_confirmation(look, comparison)
        information = self.looks[look] / self.looks[-1]
        if information == 1:
            return float(comparison.p_value <= self.difference_level(look, found))
        score = -float(ndtri(max(comparison.p_value, 1e-300) / 2)) / math.sqrt(information)
        spread = math.sqrt((1 - information) / information)
        bound = -float(ndtri(self.difference_level(len(self.looks) - 1, found) / 2))
        return float(ndtr((score - bound) / spread) + ndtr((-bound - score) / spread))

    def _chance_of_confirmation(self, look: int, comparison: Comparison) -> float:
        ratio = self.confirmation / self.looks[look]
        score = -float(ndtri(max(comparison.p_value, 1e-300) / 2)) * (1 if comparison.value > 0 else -1)
        bound = -float(ndtri(self.error / 2 / self.comparisons))
        return float(ndtr((score * math.sqrt(ratio) - bound) / math.sqrt(1 + ratio)))

    def _differences(
        self, look: int, tested: Mapping[Key, Comparison], decisions: Mapping[Key, Decision]
    ) -> dict[Key, Decision]:
        """Gains and losses by Holm's step-down: each one found raises the level of the next."""
        found, decided = _count(decisions, "gain", "loss"), dict[Key, Decision]()
        for key in sorted(tested, key=lambda key: tested[key].p_value):
            if tested[key].p_value > self.difference_level(look, found + len(decided)):
                break
            decided[key] = "gain" if tested[key].value > 0 else "loss"
        return decided

    def _equals(
        self, look: int, tested: Mapping[Key, Comparison], decisions: Mapping[Key, Decision]
    ) -> dict[Key, Decision]:
        found, decided = _count(decisions, "equal"), dict[Key, Decision]()
        p_values = {key: equivalence_p(comparison, self.margin) for key, comparison in tested.items()}
        for key in sorted(p_values, key=lambda key: p_values[key]):
            if p_values[key] > self.equal_level(look, found + len(decided)):
                break
            decided[key] = "equal"
        return decided


def equivalence_p(comparison: Comparison, margin: float) -> float:
    """Larger p-value of the two one-sided tests that the difference is at least ``margin`` from zero; 1 outside."""
    distance = margin - abs(comparison.value)
    if distance <= 0:
        return 1.0
    error = comparison.standard_error
    return float(stdtr(comparison.df, -distance / error)) if error else 0.0


def boundaries(information: Sequence[float], spent: Sequence[float]) -> Values:
    """Upper bounds of the normal score at each look, which a score without effect crosses with probability ``spent``.

    ``information``: increasing fractions up to 1. ``spent``: cumulative. By recursive integration over the looks
    (Armitage, McPherson & Rowe 1969); agrees with R's ldbounds to four digits.
    """
    bounds = np.empty(len(information))
    nodes, node_weights = leggauss(NODES)
    density: _Density | None = None
    for look, fraction in enumerate(information):
        root = math.sqrt(fraction)
        increment = spent[look] - (spent[look - 1] if look else 0.0)
        if density is None:
            bounds[look] = -ndtri(increment)
        elif increment <= 0:
            bounds[look] = math.inf
        else:
            bounds[look] = density.upper_bound(fraction, increment) / root
        high = min(bounds[look], FARTHEST) * root
        points = (nodes + 1) / 2 * (high + FARTHEST * root) - FARTHEST * root
        values = _normal_density(points / root) / root if density is None else density.after(fraction, points)
        density = _Density(fraction, points, values * node_weights * (high + FARTHEST * root) / 2)
    return bounds


@dataclass(frozen=True)
class _Density:
    """Sub-density of the sum at one look, among sums that crossed no bound: ``mass`` at ``points``."""

    information: float
    points: Values
    mass: Values

    def after(self, information: float, points: Values) -> Values:
        """Density at ``points`` of a later look."""
        step = math.sqrt(information - self.information)
        return np.asarray(_normal_density((points[:, None] - self.points) / step) / step @ self.mass)

    def upper_bound(self, information: float, probability: float) -> float:
        """The sum that is exceeded at a later look with this probability."""
        step = math.sqrt(information - self.information)

        def excess(bound: float) -> float:
            return math.log(max(float(ndtr((self.points - bound) / step) @ self.mass), 1e-300) / probability)

        return float(brentq(excess, -FARTHEST, 2 * FARTHEST))


@cache
def _difference_bounds(looks: tuple[int, ...], error: float) -> Values:
    """One side, spending of O'Brien and Fleming's kind (Lan & DeMets 1983)."""
    information = [look / looks[-1] for look in looks]
    spent = [2 * float(ndtr(ndtri(error / 2) / math.sqrt(fraction))) for fraction in information]
    return boundaries(information, spent)


@cache
def _equal_bounds(looks: tuple[int, ...], error: float) -> Values:
    information = [look / looks[-1] for look in looks]
    return boundaries(information, [error * fraction for fraction in information])


def _normal_density(x: Values) -> Values:
    return np.asarray(np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi))


def _count(decisions: Mapping[Key, Decision], *kinds: Decision) -> int:
    return sum(decision in kinds for decision in decisions.values())
