"""Two groups of variants under corruption: mean corruption error, relative error, retained accuracy, worst corruption.

Measures and intervals are those of ``evaluation/stats/corruption.py``; they describe, and decide nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hpc_jepa.evaluation.stats.accuracy import Estimate
from hpc_jepa.evaluation.stats.corruption import CorruptionMeasures
from hpc_jepa.report.comparisons import RowName, label
from hpc_jepa.report.corrupted_scores import CorruptedScores, Place, corrupted_scores
from hpc_jepa.report.questions import Answer, AskedContrast


@dataclass(frozen=True)
class Range:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate | None, factor: float = 1.0) -> "Range | None":
        """The estimate times ``factor``; None where it is not defined."""
        if estimate is None:
            return None
        return cls(factor * estimate.value, factor * estimate.low, factor * estimate.high)

    def text(self, decimals: int, sign: str = "") -> str:
        """``0.97 [0.95, 0.99]``."""
        value, low, high = (f"{each:{sign}.{decimals}f}" for each in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class CorruptionSummary:
    """The first group against the second in one regime, benchmark, protocol and probe.

    ``error`` and ``relative``: ratios, less than 1 if the first group is more robust. ``retained``: percent of the
    clean accuracy that each group keeps, and the difference in points. None where a measure is not defined.
    ``accuracy``: by corruption, of both groups in percent. ``worst``: the corruption with the least accuracy of the
    first group; ``worst_ratio``: that with the largest corruption error, and the error.
    """

    study: str
    place: Place
    names: tuple[str, str]
    error: Range | None
    relative: Range | None
    retained: tuple[float | None, float | None]
    retained_difference: Range | None
    accuracy: Mapping[str, tuple[float, float]]
    worst: str
    worst_ratio: tuple[str, float] | None

    @property
    def clause(self) -> str:
        """All of it, as a part of a sentence."""
        first, second = self.names
        regime, benchmark, _, _ = self.place
        ours, theirs = self.accuracy[self.worst]
        error = f"not defined, as {second} makes no error" if self.error is None else self.error.text(3)
        unknown = f"not defined, as the accuracy that {second} loses is not told from zero"
        relative = unknown if self.relative is None else self.relative.text(3)
        parts = [
            f"mean corruption error of {first} against {second} {error} on {benchmark} ({regime}, "
            f"{len(self.accuracy)} corruptions)",
            f"relative corruption error {relative}",
        ]
        if self.retained_difference is not None:
            kept = " against ".join(f"{each:.1f} %" for each in self.retained)
            parts.append(f"retained accuracy {kept}, {self.retained_difference.text(1, '+')} points")
        parts.append(f"worst corruption {_words(self.worst)} ({ours:.1f} % against {theirs:.1f} %)")
        if self.worst_ratio is not None:
            name, ratio = self.worst_ratio
            parts.append(f"worst beside {second} under {_words(name)} (corruption error {ratio:.3f})")
        return ", ".join(parts)


def corruption_summaries(answer: Answer) -> list[CorruptionSummary]:
    """Of each column in which two groups are compared under corruption."""
    summaries = []
    for place, (rows, others), scores in compared_groups(answer):
        ours, theirs = scores.measures(rows, others), scores.measures(others, rows)
        if ours is not None and theirs is not None:
            first, second = answer.contrast.groups or ("", "")
            summaries.append(_summary(answer.study, place, (first, second), scores.corruptions, ours, theirs))
    return summaries


Sides = tuple[list[RowName], list[RowName]]
"""Rows of both groups."""


def compared_groups(answer: Answer) -> list[tuple[Place, Sides, CorruptedScores]]:
    """Each place in which an answer compares two groups under corruption, with the rows of both and all scores."""
    if answer.outcome.task != "robustness" or answer.scores is None:
        return []
    known = corrupted_scores(answer.scores)
    found: dict[Place, tuple[Sides, CorruptedScores]] = {}
    for asked in answer.of_kind("groups"):
        column = asked.column
        place = (asked.regime, column.benchmark, column.protocol, column.probe)
        if place in known and place not in found:
            found[place] = _sides(asked, known[place]), known[place]
    return [(place, sides, scores) for place, (sides, scores) in found.items()]


def _sides(asked: AskedContrast, scores: CorruptedScores) -> Sides:
    first, second = (
        [row for row in scores.clean.scores if sign * asked.weights.get(label(row), 0.0) > 0] for sign in (1, -1)
    )
    return first, second


def _summary(
    study: str,
    place: Place,
    names: tuple[str, str],
    corruptions: list[str],
    ours: CorruptionMeasures,
    theirs: CorruptionMeasures,
) -> CorruptionSummary:
    accuracies = 100 * ours.accuracies[1:], 100 * theirs.accuracies[1:]
    accuracy = {
        name: (float(first), float(second)) for name, first, second in zip(corruptions, *accuracies, strict=True)
    }
    largest = int(ours.ratios.argmax())
    kept = tuple(None if each.retained is None else 100 * each.retained.value for each in (ours, theirs))
    return CorruptionSummary(
        study=study,
        place=place,
        names=names,
        error=Range.of(ours.error),
        relative=Range.of(ours.relative),
        retained=(kept[0], kept[1]),
        retained_difference=Range.of(ours.retained_gain, 100),
        accuracy=accuracy,
        worst=corruptions[int(ours.lost.argmax())],
        worst_ratio=None if ours.error is None else (corruptions[largest], float(ours.ratios[largest])),
    )


def _words(corruption: str) -> str:
    return corruption.replace("_", " ")
