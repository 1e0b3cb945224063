"""Rules of the predicates: the value of each, its bounds, and whether it holds as printed and with uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Literal

from hpc_jepa.report.evidence import Interval, JointValues, Limit
from hpc_jepa.report.predicates import (
    AllDifferencesInRange,
    ClaimCell,
    CountOfDifferences,
    DifferenceEquals,
    Extreme,
    Pair,
    SetBelowThreshold,
    SpreadAtMost,
)

Verdict = Literal[
    "supported",
    "contradicted",
    "undecided",
    "undecided: one seed",
    "undecided: not decided by the looks",
    "undecided: no comparison of the study",
]


@dataclass(frozen=True)
class PredicateOutcome:
    """Computed value of a predicate, its bounds, and both verdicts."""

    computed: str
    low: float | None
    high: float | None
    as_printed: Verdict
    with_uncertainty: Verdict


@dataclass(frozen=True)
class ClaimValues:
    """Numbers of a claim. ``joint``: of the accuracies of a predicate that needs them together."""

    scores: Mapping[ClaimCell, Interval]
    differences: Mapping[Pair, Interval]
    joint: JointValues | None = None

    @property
    def limit(self) -> Limit:
        """The first limit of any value."""
        limits = [found.limit for found in (*self.differences.values(), *self.scores.values())]
        limits += [] if self.joint is None else [self.joint.limit]
        return next((limit for limit in limits if limit), "")

    @property
    def certain(self) -> "ClaimValues":
        """Values of which those with a limit decide no more than their grid does."""
        return ClaimValues(
            {cell: score.certain for cell, score in self.scores.items()},
            {pair: difference.certain for pair, difference in self.differences.items()},
            None if self.joint is None or self.joint.limit else self.joint,
        )


@singledispatch
def outcome_of(predicate: Any, values: ClaimValues) -> PredicateOutcome:
    """The outcome of a predicate; each kind has its own rule."""
    raise NotImplementedError(f"no rule for {type(predicate).__name__}")


@outcome_of.register
def _(predicate: DifferenceEquals, values: ClaimValues) -> PredicateOutcome:
    (difference,) = values.differences.values()
    low, high = predicate.value - predicate.tolerance, predicate.value + predicate.tolerance
    return PredicateOutcome(
        f"{difference.value:.2f}", difference.low, difference.high, *in_range([difference], low, high)
    )


@outcome_of.register
def _(predicate: AllDifferencesInRange, values: ClaimValues) -> PredicateOutcome:
    differences = list(values.differences.values())
    low, high = predicate.low - predicate.tolerance, predicate.high + predicate.tolerance
    computed = ", ".join(
        f"{cell.variant} {difference.value:.2f}" for (cell, _), difference in values.differences.items()
    )
    bounds = min(difference.low for difference in differences), max(difference.high for difference in differences)
    return PredicateOutcome(computed, *bounds, *in_range(differences, low, high))


@outcome_of.register
def _(predicate: CountOfDifferences, values: ClaimValues) -> PredicateOutcome:
    sign = 1 if predicate.operator == "<" else -1
    beyond = [
        _below(with_sign(difference, sign), sign * predicate.threshold) for difference in values.differences.values()
    ]
    count, least, most = (sum(column) for column in zip(*beyond, strict=True))
    judged = with_uncertainty(least == most == predicate.count, not least <= predicate.count <= most)
    return PredicateOutcome(f"{count} of {len(beyond)}", least, most, as_printed(count == predicate.count), judged)


@outcome_of.register
def _(predicate: Extreme, values: ClaimValues) -> PredicateOutcome:
    sign = 1 if predicate.type == "argmax" else -1
    margins = [with_sign(difference, sign) for difference in values.differences.values()]
    closest = min(margins, key=lambda margin: margin.value)
    best = max(values.scores, key=lambda cell: sign * values.scores[cell].value)
    judged = with_uncertainty(
        all(margin.above_zero for margin in margins), any(margin.below_zero for margin in margins)
    )
    computed = f"{best.variant} ({values.scores[best].value:.2f})"
    return PredicateOutcome(computed, closest.low, closest.high, as_printed(best.variant == predicate.expected), judged)


@outcome_of.register
def _(predicate: SpreadAtMost, values: ClaimValues) -> PredicateOutcome:
    gaps = [with_sign(difference, 1 if difference.value >= 0 else -1) for difference in values.differences.values()]
    value, low, high = (max(getattr(gap, name) for gap in gaps) for name in ("value", "low", "high"))
    judged = with_uncertainty(high <= predicate.maximum, low > predicate.maximum)
    return PredicateOutcome(f"{value:.2f}", max(low, 0.0), high, as_printed(value <= predicate.maximum), judged)


@outcome_of.register
def _(predicate: SetBelowThreshold, values: ClaimValues) -> PredicateOutcome:
    below = {cell.variant: _below(score, predicate.threshold) for cell, score in values.scores.items()}
    printed, sure, possible = ({name for name, flags in below.items() if flags[kind]} for kind in range(3))
    expected = set(predicate.expected)
    judged = with_uncertainty(sure == possible == expected, not sure <= expected <= possible)
    computed = ", ".join(sorted(printed)) or "none"
    return PredicateOutcome(computed, len(sure), len(possible), as_printed(printed == expected), judged)


def with_sign(interval: Interval, sign: int) -> Interval:
    """The interval, negated if ``sign`` is -1."""
    return interval if sign > 0 else -interval


def in_range(differences: Sequence[Interval], low: float, high: float) -> tuple[Verdict, Verdict]:
    """Both verdicts on whether all differences are between ``low`` and ``high``."""
    holds = all(low <= difference.value <= high for difference in differences)
    excluded = any(difference.high < low or difference.low > high for difference in differences)
    return as_printed(holds), with_uncertainty(
        all(_established(difference, low, high) for difference in differences), excluded
    )


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


def as_printed(holds: bool) -> Verdict:
    """The verdict from the values alone."""
    return "supported" if holds else "contradicted"


def with_uncertainty(supported: bool, contradicted: bool) -> Verdict:
    """The verdict from what the intervals exclude."""
    if contradicted:
        return "contradicted"
    return "supported" if supported else "undecided"
