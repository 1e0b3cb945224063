"""Verdicts on claims, from the numbers as printed and from their intervals.

As printed, a claim is supported if its predicate holds for the values, else contradicted. With uncertainty, the
intervals and the significance of the grid decide (they are not adjusted for the number of claims):

- difference: contradicted if the interval excludes the claimed values, supported if it includes one and the difference
  is significant (or, if the claim allows zero, if it is inside the claimed range), else undecided;
- count or set: supported if the intervals allow no other, contradicted if they do not allow the claimed one;
- largest or smallest: supported if significantly ahead of every other, contradicted if significantly behind any.

A number of one pretraining seed decides nothing about a variant: where the sampling of test clips alone would decide,
the verdict is ``undecided: one seed``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, Literal, Protocol

from hpc_jepa.report.claims import (
    AllDifferencesInRange,
    Claim,
    ClaimCell,
    ConstantEquals,
    CountOfDifferences,
    DifferenceEquals,
    Extreme,
    Pair,
    SetBelowThreshold,
    SpreadAtMost,
)

Verdict = Literal["supported", "contradicted", "undecided", "undecided: one seed"]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in percent or percentage points.

    ``one_seed``: of single runs, so the interval covers the sampling of test clips alone. ``significant``: whether the
    difference is one, after the corrections of its grid; None: whether the interval excludes zero.
    """

    value: float
    low: float
    high: float
    one_seed: bool = False
    significant: bool | None = None

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low, self.one_seed, self.significant)

    @property
    def above_zero(self) -> bool:
        """Whether the difference is significant and positive."""
        return self.low > 0 if self.significant is None else self.significant and self.value > 0

    @property
    def below_zero(self) -> bool:
        """Whether the difference is significant and negative."""
        return (-self).above_zero

    @property
    def unbounded(self) -> "Interval":
        """The value without what one seed cannot know: nothing is excluded, nothing significant."""
        return Interval(self.value, -math.inf, math.inf, True, False) if self.one_seed else self


class Evidence(Protocol):
    """A source of numbers: a publication, or the runs of a study under one semantics."""

    @property
    def name(self) -> str:
        """Name of the source in the report."""

    def score(self, cell: ClaimCell) -> Interval | None:
        """Accuracy in percent, None if it is missing."""

    def difference(self, minuend: ClaimCell, subtrahend: ClaimCell) -> Interval | None:
        """Difference in points, None if it is missing."""

    def constant(self, name: str) -> Any:
        """A constant of the design, None if it is unknown."""


@dataclass(frozen=True)
class PredicateOutcome:
    """Computed value of a predicate, its bounds, and both verdicts."""

    computed: str
    low: float | None
    high: float | None
    as_printed: Verdict
    with_uncertainty: Verdict


@dataclass(frozen=True)
class ClaimResult:
    """Outcome of a claim on one source; ``missing`` lists the cells that the source lacks."""

    claim: Claim
    outcome: PredicateOutcome
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Values:
    scores: Mapping[ClaimCell, Interval]
    differences: Mapping[Pair, Interval]

    def without_lone_seeds(self) -> "_Values":
        """Values of which those of one seed exclude nothing."""
        return _Values(
            {cell: score.unbounded for cell, score in self.scores.items()},
            {pair: difference.unbounded for pair, difference in self.differences.items()},
        )


UNDECIDED = PredicateOutcome("", None, None, "undecided", "undecided")


def evaluate_claim(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Evaluate one claim; undecided if a cell is missing."""
    if isinstance(claim.predicate, ConstantEquals):
        return _evaluate_constant(claim, claim.predicate, evidence)
    scores = {cell: evidence.score(cell) for cell in claim.predicate.cells()}
    differences = {pair: evidence.difference(*pair) for pair in claim.predicate.pairs()}
    gaps = [str(cell) for cell, score in scores.items() if score is None]
    gaps += [f"{a} minus {b}" for (a, b), known in differences.items() if known is None and not gaps]
    if gaps:
        return ClaimResult(claim, UNDECIDED, tuple(gaps))
    values = _Values(_known(scores), _known(differences))
    outcome = _outcome(claim.predicate, values)
    if outcome.with_uncertainty != _outcome(claim.predicate, values.without_lone_seeds()).with_uncertainty:
        outcome = replace(outcome, with_uncertainty="undecided: one seed")
    return ClaimResult(claim, outcome)


def _known(values: Mapping[Any, Interval | None]) -> dict[Any, Interval]:
    return {key: value for key, value in values.items() if value is not None}


def _evaluate_constant(claim: Claim, predicate: ConstantEquals, evidence: Evidence) -> ClaimResult:
    value = evidence.constant(predicate.name)
    if value is None:
        return ClaimResult(claim, UNDECIDED, (predicate.name,))
    verdict = _verdict(value == predicate.value)
    return ClaimResult(claim, PredicateOutcome(str(value), None, None, verdict, verdict))


@singledispatch
def _outcome(predicate: Any, values: _Values) -> PredicateOutcome:
    raise NotImplementedError(f"no rule for {type(predicate).__name__}")


@_outcome.register
def _(predicate: DifferenceEquals, values: _Values) -> PredicateOutcome:
    (difference,) = values.differences.values()
    low, high = predicate.value - predicate.tolerance, predicate.value + predicate.tolerance
    return PredicateOutcome(
        f"{difference.value:.2f}", difference.low, difference.high, *_range([difference], low, high)
    )


@_outcome.register
def _(predicate: AllDifferencesInRange, values: _Values) -> PredicateOutcome:
    differences = list(values.differences.values())
    low, high = predicate.low - predicate.tolerance, predicate.high + predicate.tolerance
    computed = ", ".join(
        f"{cell.variant} {difference.value:.2f}" for (cell, _), difference in values.differences.items()
    )
    bounds = min(difference.low for difference in differences), max(difference.high for difference in differences)
    return PredicateOutcome(computed, *bounds, *_range(differences, low, high))


@_outcome.register
def _(predicate: CountOfDifferences, values: _Values) -> PredicateOutcome:
    sign = 1 if predicate.operator == "<" else -1
    beyond = [
        _below(with_sign(difference, sign), sign * predicate.threshold) for difference in values.differences.values()
    ]
    count, least, most = (sum(column) for column in zip(*beyond, strict=True))
    certain = _certain(least == most == predicate.count, not least <= predicate.count <= most)
    return PredicateOutcome(f"{count} of {len(beyond)}", least, most, _verdict(count == predicate.count), certain)


@_outcome.register
def _(predicate: Extreme, values: _Values) -> PredicateOutcome:
    sign = 1 if predicate.type == "argmax" else -1
    margins = [with_sign(difference, sign) for difference in values.differences.values()]
    closest = min(margins, key=lambda margin: margin.value)
    best = max(values.scores, key=lambda cell: sign * values.scores[cell].value)
    certain = _certain(all(margin.above_zero for margin in margins), any(margin.below_zero for margin in margins))
    computed = f"{best.variant} ({values.scores[best].value:.2f})"
    return PredicateOutcome(computed, closest.low, closest.high, _verdict(best.variant == predicate.expected), certain)


@_outcome.register
def _(predicate: SpreadAtMost, values: _Values) -> PredicateOutcome:
    gaps = (with_sign(difference, 1 if difference.value >= 0 else -1) for difference in values.differences.values())
    widest = max(gaps, key=lambda gap: gap.value)
    certain = _certain(widest.high <= predicate.maximum, widest.low > predicate.maximum)
    return PredicateOutcome(
        f"{widest.value:.2f}", max(widest.low, 0.0), widest.high, _verdict(widest.value <= predicate.maximum), certain
    )


@_outcome.register
def _(predicate: SetBelowThreshold, values: _Values) -> PredicateOutcome:
    below = {cell.variant: _below(score, predicate.threshold) for cell, score in values.scores.items()}
    printed, sure, possible = ({name for name, flags in below.items() if flags[kind]} for kind in range(3))
    expected = set(predicate.expected)
    certain = _certain(sure == possible == expected, not sure <= expected <= possible)
    computed = ", ".join(sorted(printed)) or "none"
    return PredicateOutcome(computed, len(sure), len(possible), _verdict(printed == expected), certain)


def with_sign(interval: Interval, sign: int) -> Interval:
    """The interval, negated if ``sign`` is -1."""
    return interval if sign > 0 else -interval


def _range(differences: Sequence[Interval], low: float, high: float) -> tuple[Verdict, Verdict]:
    holds = all(low <= difference.value <= high for difference in differences)
    excluded = any(difference.high < low or difference.low > high for difference in differences)
    return _verdict(holds), _certain(all(_established(difference, low, high) for difference in differences), excluded)


def _established(difference: Interval, low: float, high: float) -> bool:
    """Whether the difference is significant; if the claimed range includes zero, whether it contains the interval."""
    if low > 0:
        return difference.above_zero
    if high < 0:
        return difference.below_zero
    return low <= difference.low and difference.high <= high


def _below(interval: Interval, threshold: float) -> tuple[bool, bool, bool]:
    """Whether the value is below ``threshold``: as printed, certainly, possibly."""
    return interval.value < threshold, interval.high < threshold, interval.low < threshold


def _verdict(holds: bool) -> Verdict:
    return "supported" if holds else "contradicted"


def _certain(supported: bool, contradicted: bool) -> Verdict:
    if contradicted:
        return "contradicted"
    return "supported" if supported else "undecided"


def count_verdicts(verdicts: Iterable[Verdict]) -> str:
    """Number of each verdict, as text."""
    listed = list(verdicts)
    lone = listed.count("undecided: one seed")
    open_ = f"{listed.count('undecided') + lone} undecided" + (f" ({lone} for want of a second seed)" if lone else "")
    return f"{listed.count('supported')} supported, {listed.count('contradicted')} contradicted, {open_}"
