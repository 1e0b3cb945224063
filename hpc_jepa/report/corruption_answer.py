"""Two groups of variants under corruption: mean corruption error, relative error, retained accuracy, worst corruption.

The corruption error of the first group is its error under a corruption, summed over severities, divided by that of the
second (Hendrycks & Dietterich 2019). At low accuracy this ratio is near 1 whatever the encoders do. The relative
error divides what the errors are above those on clean clips instead, and retained accuracy is the share of the clean
accuracy that is left. Intervals are percentiles of a bootstrap over pretraining seeds and test clips, by source video
where it is known: they describe, and decide nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.tasks.robustness import CLEAN
from hpc_jepa.report.comparisons import ColumnScores, RowName, StudyScores, label
from hpc_jepa.report.questions import Answer, AskedContrast
from hpc_jepa.report.results import ResultColumn

Array = NDArray[np.float64]

DRAWS = 1000
LEAST_DEFINED = 0.95
"""Share of the bootstrap draws in which a ratio must be defined to have an interval."""


@dataclass(frozen=True)
class Range:
    """An estimate with its 95 % bootstrap interval, None where it is not defined in too many draws."""

    value: float
    low: float | None
    high: float | None

    def text(self, decimals: int, sign: str = "") -> str:
        """``0.97 [0.95, 0.99]``."""
        value = f"{self.value:{sign}.{decimals}f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:{sign}.{decimals}f}, {self.high:{sign}.{decimals}f}]"


@dataclass(frozen=True)
class CorruptionSummary:
    """The first group against the second in one regime, benchmark, protocol and probe.

    ``error`` and ``relative``: ratios, less than 1 if the first group is more robust. ``relative``: None if there is
    a corruption that costs the second group no accuracy. ``retained``: percent of the clean accuracy that each group
    keeps, and the difference in points. ``accuracy``: by corruption, of both groups in percent. ``worst``: the
    corruption with the least accuracy of the first group; ``worst_ratio``: that with the largest corruption error, and
    the error.
    """

    study: str
    regime: str
    column: ResultColumn
    names: tuple[str, str]
    error: Range
    relative: Range | None
    retained: tuple[float, float]
    retained_difference: Range
    accuracy: Mapping[str, tuple[float, float]]
    worst: str
    worst_ratio: tuple[str, float]
    severities: int

    @property
    def clause(self) -> str:
        """All of it, as a part of a sentence."""
        first, second = self.names
        relative = "not defined, as a corruption costs no accuracy" if self.relative is None else self.relative.text(3)
        ours, theirs = self.accuracy[self.worst]
        return (
            f"mean corruption error of {first} {self.error.text(3)} of that of {second} on {self.column.benchmark} "
            f"({self.regime}, {len(self.accuracy)} corruptions, bootstrap intervals), relative corruption error "
            f"{relative}, retained accuracy {self.retained[0]:.1f} % against {self.retained[1]:.1f} %, "
            f"{self.retained_difference.text(1, '+')} points, worst corruption {_words(self.worst)} ({ours:.1f} % "
            f"against {theirs:.1f} %), worst beside {second} under {_words(self.worst_ratio[0])} (corruption error "
            f"{self.worst_ratio[1]:.3f})"
        )


def corruption_summaries(answer: Answer) -> list[CorruptionSummary]:
    """Of each column in which two groups are compared under corruption."""
    if answer.outcome.task != "robustness" or answer.scores is None or answer.contrast.groups is None:
        return []
    first, second = answer.contrast.groups
    found: dict[tuple[str, str, str, str], CorruptionSummary] = {}
    for asked in answer.of_kind("groups"):
        column = asked.column
        key = (asked.regime, column.benchmark, column.protocol, column.probe)
        if key in found:
            continue
        conditions = _conditions(answer.scores, asked)
        if CLEAN in conditions and len(conditions) > 1:
            found[key] = _summary(answer.study, asked, (first, second), conditions)
    return list(found.values())


def _conditions(study: StudyScores, asked: AskedContrast) -> dict[str, ColumnScores]:
    """Scores of the clean clips and of every corruption and severity, by condition."""
    wanted = (asked.column.task, asked.column.benchmark, asked.column.protocol, asked.column.probe)
    return {
        column.condition: scores
        for (regime, column), scores in study.columns.items()
        if regime == asked.regime
        and (column.task, column.benchmark, column.protocol, column.probe) == wanted
        and (column.condition == CLEAN or ", severity " in column.condition)
    }


def _summary(
    study: str, asked: AskedContrast, names: tuple[str, str], conditions: Mapping[str, ColumnScores]
) -> CorruptionSummary:
    clean = conditions[CLEAN]
    sides = tuple(_side(asked, clean, sign) for sign in (1, -1))
    seeds = sorted(set.intersection(*(set(clean.scores[row]) for rows in sides for row in rows)))
    corruptions = list(dict.fromkeys(name.partition(",")[0] for name in conditions if name != CLEAN))
    by_corruption = {
        name: [scores for condition, scores in conditions.items() if condition.partition(",")[0] == name]
        for name in corruptions
    }
    scores = [
        np.stack([_mean(rows, seeds, [clean]), *(_mean(rows, seeds, each) for each in by_corruption.values())])
        for rows in sides
    ]
    measured = _measures(*(each.mean(axis=(1, 2))[:, None] for each in scores))
    drawn = _measures(*_bootstrap(scores, clean.clusters))
    accuracy = {name: (_percent(scores[0][i]), _percent(scores[1][i])) for i, name in enumerate(corruptions, start=1)}
    ratios = dict(zip(corruptions, measured.ratios[:, 0].tolist(), strict=True))
    worst_ratio = max(ratios, key=lambda name: ratios[name])
    relative = float(measured.relative[0])
    return CorruptionSummary(
        study=study,
        regime=asked.regime,
        column=asked.column,
        names=names,
        error=_range(float(measured.error[0]), drawn.error),
        relative=_range(relative, drawn.relative) if np.isfinite(relative) else None,
        retained=(100 * float(measured.retained[0][0]), 100 * float(measured.retained[1][0])),
        retained_difference=_range(
            100 * float(measured.retained[0][0] - measured.retained[1][0]),
            100 * (drawn.retained[0] - drawn.retained[1]),
        ),
        accuracy=accuracy,
        worst=min(accuracy, key=lambda name: accuracy[name][0]),
        worst_ratio=(worst_ratio, ratios[worst_ratio]),
        severities=max(map(len, by_corruption.values())),
    )


def _side(asked: AskedContrast, scores: ColumnScores, sign: int) -> list[RowName]:
    names = {name for name, weight in asked.weights.items() if sign * weight > 0}
    return [row for row in scores.scores if label(row) in names]


def _mean(rows: Sequence[RowName], seeds: Sequence[int], scores: Sequence[ColumnScores]) -> Array:
    """[S, n]: mean score of each clip over the rows of a group and over severities."""
    return np.stack([np.mean([each.scores[row][seed] for each in scores for row in rows], axis=0) for seed in seeds])


@dataclass(frozen=True)
class _Measures:
    """Of B draws: ``ratios`` [C, B], the others [B]; NaN where a ratio is not defined."""

    ratios: Array
    error: Array
    relative: Array
    retained: tuple[Array, Array]


def _measures(first: Array, second: Array) -> _Measures:
    """From accuracies [1 + C, B], those of the clean clips first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _defined((1 - first[1:]) / (1 - second[1:]), second[1:] < 1)
        lost, lost_by_second = first[0] - first[1:], second[0] - second[1:]
        relative = _defined(lost / lost_by_second, lost_by_second > 0)
        retained = tuple(_defined(each[1:].mean(axis=0) / each[0], each[0] > 0) for each in (first, second))
    return _Measures(ratios, ratios.mean(axis=0), relative.mean(axis=0), (retained[0], retained[1]))


def _defined(values: Array, where: NDArray[np.bool_]) -> Array:
    return np.where(where, values, np.nan)


def _bootstrap(scores: Sequence[Array], clusters: NDArray[np.int64] | None) -> list[Array]:
    """[1 + C, B] of each group: mean of ``scores`` [1 + C, S, n] over redrawn seeds and clips, the same of both."""
    _, seeds, n = scores[0].shape
    numbers = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    groups = int(numbers.max()) + 1
    rng = np.random.default_rng(0)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
    group_counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=DRAWS)
    sizes = np.bincount(numbers)
    weights = group_counts.T / (group_counts @ sizes)
    drawn = []
    for each in scores:
        sums = np.stack([[np.bincount(numbers, row, groups) for row in condition] for condition in each])
        by_seed = sums @ weights
        drawn.append(np.einsum("csb,bs->cb", by_seed, seed_counts / seeds))
    return drawn


def _range(value: float, drawn: Array) -> Range:
    defined = drawn[np.isfinite(drawn)]
    if defined.size < LEAST_DEFINED * drawn.size:
        return Range(value, None, None)
    low, high = np.percentile(defined, (2.5, 97.5))
    return Range(value, float(low), float(high))


def _percent(scores: Array) -> float:
    return 100 * float(scores.mean())


def _words(corruption: str) -> str:
    return corruption.replace("_", " ")
