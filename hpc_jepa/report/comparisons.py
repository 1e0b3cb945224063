"""Scores of the rows of a study by regime and column, and their comparisons over pretraining seeds and test clips."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import NUMBER_METRICS, PROTOCOLS, MetricName, Task
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import preset_of
from hpc_jepa.config.study_evaluations import DecidesConfig
from hpc_jepa.evaluation.conditions import MEAN
from hpc_jepa.evaluation.stats.accuracy import Scale
from hpc_jepa.evaluation.stats.blocked import (
    Comparison,
    SeedScores,
    adjust_family,
    compare_with_reference,
    estimate_contrast,
    mean_score,
)
from hpc_jepa.evaluation.stats.draws import CountedScores
from hpc_jepa.evaluation.stats.metrics import class_mean_scores, clip_scores, scale_of
from hpc_jepa.report.deciding import StudyBenchmark
from hpc_jepa.report.differing_settings import Settings, beside_composition, deciding_settings, differing_keys
from hpc_jepa.report.predictions import Answers
from hpc_jepa.report.result_grid import ACCURACY, ColumnMetric, Contrast
from hpc_jepa.report.results import RANDOM, ResultColumn, ResultRow
from hpc_jepa.report.row_names import RowNames, names_of
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.task_results import RECALL, TaskAnswers

Key = TypeVar("Key")

SEMANTICS = ("corrected", "published")
UNKNOWN_SETTINGS = "an unknown configuration"
UNTRAINED = "none"
"""Semantics of encoders that no run trained."""

TESTS = {
    "blocked": "t test paired by seed, variances moderated over the variants",
    "paired": "t test paired by seed",
    "welch": "Welch's t test of seed means",
    "one_seed": "clips of two single runs",
}
"""Names of the methods of a comparison."""

RowName = tuple[str, str]
"""Variant and semantics."""

Clusters = NDArray[np.int64]
"""[n]: number of the source video of each test clip."""


@dataclass(frozen=True)
class ColumnScores:
    """Scores of all rows of one regime in one column, on the same test clips. ``clusters``: None if unknown.

    ``names``: which rows are baselines. ``metric``: what the scores measure. Of few-shot draws, scores are means over
    the draws, whose variance all comparisons contain; those of episodes are of episodes, not clips.
    """

    column: ResultColumn
    scores: Mapping[RowName, SeedScores]
    clusters: Clusters | None
    names: RowNames = field(default_factory=RowNames)
    metric: ColumnMetric = ACCURACY
    _known: dict[RowName, dict[RowName, Comparison]] = field(default_factory=dict, repr=False, compare=False)

    def reference_of(self, row: RowName) -> RowName | None:
        """The baseline to compare a row with: of the same semantics, of the same preset, else of another; None for the
        baseline itself.
        """
        variant, semantics = row
        baseline = self.names.reference(variant)
        if baseline is None:
            return None
        order = dict.fromkeys((semantics, preset_of(semantics), *SEMANTICS))
        return next(((baseline, name) for name in order if (baseline, name) in self.scores), None)

    def against(self, reference: RowName) -> dict[RowName, Comparison]:
        """Trained rows against ``reference``, judged together: those that the grid compares with it, or if it is no
        baseline, those of its semantics.
        """
        if reference not in self._known:
            trained = {row: scores for row, scores in self.scores.items() if row[1] != UNTRAINED and row != reference}
            rows = {row: scores for row, scores in trained.items() if self.reference_of(row) == reference}
            if self.names.reference(reference[0]) is not None:
                rows = {row: scores for row, scores in trained.items() if row[1] == reference[1]}
            self._known[reference] = self._compare(rows, reference)
        return self._known[reference]

    def compare(self, row: RowName, reference: RowName) -> Comparison:
        """One row against ``reference``, judged alone."""
        return self._compare({row: self.scores[row]}, reference)[row]

    def contrast(self, weights: Mapping[RowName, float]) -> Comparison:
        """Weighted sum of rows, whose weights sum to zero; see ``estimate_contrast``. Judged alone."""
        trained = {label(row): scores for row, scores in self.scores.items() if row[1] != UNTRAINED or row in weights}
        named = {label(row): weight for row, weight in weights.items()}
        return estimate_contrast(trained, named, self.clusters, self.metric.scale)

    def _compare(self, rows: Mapping[RowName, SeedScores], reference: RowName) -> dict[RowName, Comparison]:
        if not rows:
            return {}
        names = {label(row): row for row in rows}
        found = compare_with_reference(
            {name: rows[row] for name, row in names.items()}, self.scores[reference], self.clusters, self.metric.scale
        )
        return {names[name]: comparison for name, comparison in found.items()}


@dataclass(frozen=True)
class StudyScores:
    """All columns of a study, of all tasks. ``deciding``: the probe of each benchmark that the study is judged by.

    ``asked``: columns of further tasks that are judged, each task as a family of its own; the others are shown beside.
    """

    study: str
    columns: Mapping[tuple[str, ResultColumn], ColumnScores]
    deciding: Mapping[str, ResultColumn]
    configs: Mapping[tuple[str, RowName], RunConfig]
    settings: Mapping[tuple[str, RowName], Settings]
    names: RowNames = field(default_factory=RowNames)
    asked: frozenset[ResultColumn] = frozenset()

    @property
    def regimes(self) -> list[str]:
        """Regimes in order of appearance."""
        return list(dict.fromkeys([regime for regime, _ in self.columns]))

    def in_regime(self, regime: str, task: Task = "probe") -> dict[ResultColumn, ColumnScores]:
        """Columns of a regime and task."""
        return {
            column: scores for (where, column), scores in self.columns.items() if (where, column.task) == (regime, task)
        }

    def asks(self, column: ResultColumn) -> bool:
        """Whether the study is judged by a column."""
        return column in self.asked or self.deciding.get(column.benchmark) == column

    def deciding_columns(self) -> list[tuple[str, ColumnScores]]:
        """Regime and scores of the probe of each benchmark that the study is judged by."""
        return [
            (regime, scores)
            for (regime, column), scores in self.columns.items()
            if self.deciding.get(column.benchmark) == column
        ]

    def differing(self, regime: str, first: RowName, second: RowName) -> tuple[str, ...]:
        """``differing_settings`` of two rows. A record may name a row that no run is configured as."""
        ours, theirs = self.settings.get((regime, first)), self.settings.get((regime, second))
        return differing_keys(ours, theirs) if ours is not None and theirs is not None else (UNKNOWN_SETTINGS,)

    def contrast(self, regime: str, row: RowName, reference: RowName, column: ResultColumn) -> Contrast:
        """A row minus its reference. Rows that no run trained, and columns beside the deciding one, are outside the
        family of the study's comparisons.
        """
        scores = self.columns[regime, column]
        trained = row[1] != UNTRAINED
        comparison = scores.against(reference)[row] if trained else scores.compare(row, reference)
        differs = self._differs(regime, row, reference) if trained else ()
        return make_contrast(
            label(reference),
            comparison,
            scores.metric,
            asked=trained and self.asks(column),
            differs=differs,
        )

    def _differs(self, regime: str, row: RowName, reference: RowName) -> tuple[str, ...]:
        """Settings beside the composition that differ, none where the study asks for the effect of these settings: it
        declares its baseline, and the composition is the same.
        """
        settings = self.differing(regime, row, reference)
        beside = beside_composition(settings)
        return () if self.names.declared and beside == settings != (UNKNOWN_SETTINGS,) else beside


def collect_scores(
    answers: Mapping[ResultRow, Answers],
    clusters: Mapping[ResultRow, Clusters | None],
    runs: Sequence[RunReport],
    names: Mapping[str, RowNames],
    metrics: Mapping[StudyBenchmark, MetricName],
    tasks: Mapping[ResultRow, TaskAnswers] | None = None,
    decides: Mapping[StudyBenchmark, DecidesConfig] | None = None,
) -> list[StudyScores]:
    """Scores of every study, without student weights. ``names``: row names of each study. ``metrics``: those that
    decide, where it is not accuracy. ``tasks``: answers of the tasks beside probes. ``decides``: probe and protocol
    that decide, where the study names one.
    """
    tasks = tasks or {}
    scores = []
    for study in dict.fromkeys(row.study for row in (*answers, *tasks)):
        own_names = names_of(names, study)
        own = {row: found for row, found in answers.items() if row.study == study}
        own_tasks = {row: found for row, found in tasks.items() if row.study == study}
        named = {benchmark: each for (owner, benchmark), each in (decides or {}).items() if owner == study}
        probes, deciding = _probe_columns(own, clusters, own_names, metrics, named)
        columns = _task_columns(own_tasks, own_names, metrics)
        configs = {
            (config.regime, row_name(config)): config
            for config in reversed([run.config for run in runs if run.config.study == study])
        }
        settings = {name: deciding_settings(config) for name, config in configs.items()}
        asked = _asked_columns([column for _, column in columns])
        scores.append(StudyScores(study, {**probes, **columns}, deciding, configs, settings, own_names, asked))
    return scores


def make_contrast(
    reference: str, comparison: Comparison, metric: ColumnMetric, *, asked: bool = True, differs: tuple[str, ...] = ()
) -> Contrast:
    """A comparison in the unit of the metric, points for shares; its p-value is not adjusted yet."""
    lone, factor = comparison.method == "one_seed", metric.factor
    low, high = (None, None) if lone or not asked else (_finite(factor * end) for end in comparison.simultaneous)
    return Contrast(
        reference=reference,
        points=factor * comparison.value,
        low=factor * comparison.low,
        high=factor * comparison.high,
        p_value=comparison.p_value,
        adjusted=None,
        test=TESTS[comparison.method],
        seeds=1 if lone else comparison.seeds,
        dropped_seeds=comparison.dropped_seeds,
        clusters=comparison.clusters,
        df=comparison.df if math.isfinite(comparison.df) else None,
        simultaneous_low=low,
        simultaneous_high=high,
        asked=asked,
        differs=differs,
        unit="points" if metric.unit == "%" and not metric.target else metric.unit,
        higher_is_better=metric.higher_is_better,
    )


def judge_together(comparisons: Mapping[Key, Comparison], metrics: Mapping[Key, ColumnMetric]) -> dict[Key, Contrast]:
    """Comparisons in the units of their metrics; Holm's p-values and simultaneous intervals of them as one family.

    Holm's correction decides more than the intervals alone would: where it does, the interval ends at zero. The regions
    hold together as before (Guilbaud 2008), and no interval of a decided difference has both signs.
    """
    adjusted = {key: _compatible_with_holm(found) for key, found in adjust_family(comparisons).items()}
    return {
        key: replace(
            make_contrast("", found, metrics[key]), adjusted=None if found.method == "one_seed" else found.adjusted_p
        )
        for key, found in adjusted.items()
    }


def _compatible_with_holm(found: Comparison) -> Comparison:
    if found.decided is None:
        return found
    low, high = found.simultaneous
    return replace(found, simultaneous=(max(low, 0.0), high) if found.value > 0 else (low, min(high, 0.0)))


def label(row: RowName) -> str:
    """Variant, with its semantics unless they are the corrected ones."""
    variant, semantics = row
    shown = semantics.removeprefix("corrected").removeprefix(", ")
    return variant if shown in (UNTRAINED, "") else f"{variant} ({shown})"


def mean_value(scores: SeedScores, column: ColumnScores) -> tuple[float, float, float]:
    """The metric of a column over seeds with its interval, accuracy in percent."""
    estimate, factor = mean_score(scores, column.clusters, column.metric.scale), column.metric.factor
    return factor * estimate.value, factor * estimate.low, factor * estimate.high


def _probe_columns(
    answers: Mapping[ResultRow, Answers],
    clusters: Mapping[ResultRow, Clusters | None],
    names: RowNames,
    metrics: Mapping[StudyBenchmark, MetricName],
    named: Mapping[str, DecidesConfig],
) -> tuple[dict[tuple[str, ResultColumn], ColumnScores], dict[str, ResultColumn]]:
    """Scores of the first probe of each protocol and of the deciding one, and the deciding column of each benchmark:
    ``named``, even if it has no scores yet, else the first one.
    """
    first: dict[tuple[str, str, str], ResultColumn] = {}
    for row in answers:
        first.setdefault((row.regime, row.benchmark, row.protocol), ResultColumn.of(row))
    deciding: dict[str, ResultColumn] = {}
    for column in sorted(first.values(), key=lambda column: PROTOCOLS.index(column.protocol)):
        if column.benchmark not in named or named[column.benchmark].protocol in (None, column.protocol):
            deciding.setdefault(column.benchmark, column)
    for benchmark, column in deciding.items():
        if benchmark in named and named[benchmark].probe is not None:
            deciding[benchmark] = replace(column, probe=named[benchmark].probe or column.probe)
    shown = {*first.values(), *deciding.values()}
    scores: dict[tuple[str, ResultColumn], dict[RowName, dict[int, NDArray[np.float64]]]] = {}
    for row, found in answers.items():
        column = ResultColumn.of(row)
        if row.weights != "student" and column in shown:
            seeds = scores.setdefault((row.regime, column), {}).setdefault((row.variant, row.semantics), {})
            seeds[row.seed] = clip_scores(_metric_name(metrics, row), found.predicted, found.labels)
    videos = {(row.regime, ResultColumn.of(row)): clusters[row] for row in answers}
    measured = {(row.regime, ResultColumn.of(row)): _metric(metrics, row, found) for row, found in answers.items()}
    columns = {key: ColumnScores(key[1], by_row, videos[key], names, measured[key]) for key, by_row in scores.items()}
    return columns, deciding


def _task_columns(
    answers: Mapping[ResultRow, TaskAnswers], names: RowNames, metrics: Mapping[StudyBenchmark, MetricName]
) -> dict[tuple[str, ResultColumn], ColumnScores]:
    """Scores of every condition of the tasks beside probes, without student weights."""
    grouped: dict[tuple[str, ResultColumn], dict[RowName, dict[int, ResultRow]]] = {}
    for row in answers:
        if row.weights != "student":
            rows = grouped.setdefault((row.regime, ResultColumn.of(row)), {})
            rows.setdefault((row.variant, row.semantics), {})[row.seed] = row
    columns = {}
    for key, rows in grouped.items():
        one = next(iter(next(iter(rows.values())).values()))
        found = answers[one]
        metric = _task_metric(_metric_name(metrics, one), one, found)
        score = None
        if metric.name == "mean_class_accuracy" and found.labels is not None:
            score = partial(class_mean_scores, labels=found.labels)
        scores = {
            name: CountedScores({seed: answers[row].counts for seed, row in seeds.items()}, found.whole, score)
            for name, seeds in rows.items()
        }
        columns[key] = ColumnScores(key[1], scores, found.clusters, names, metric)
    return columns


def _task_metric(name: MetricName, row: ResultRow, answers: TaskAnswers) -> ColumnMetric:
    if row.metric.startswith(RECALL):
        return ColumnMetric(recall=row.metric, counted=answers.counted)
    if answers.labels is None:  # an episode, of which one right query changes little
        return ColumnMetric(scale=Scale(step=1 / answers.whole), counted=answers.counted)
    return ColumnMetric(name, scale_of(name, answers.labels))


def _asked_columns(columns: Iterable[ResultColumn]) -> frozenset[ResultColumn]:
    """The columns of tasks that a study is judged by, on the deciding protocol of each benchmark: all numbers of labels
    and episodes, the mean over corruptions with the first probe, and R@1 in both directions at all dropouts.
    """
    listed = [
        column
        for column in dict.fromkeys(columns)
        if column.task == "few_shot" or column.condition == MEAN or column.metric == f"{RECALL}1"
    ]
    first: dict[tuple[str, str], ResultColumn] = {}
    for column in sorted(listed, key=lambda column: PROTOCOLS.index(column.protocol)):
        first.setdefault((column.task, column.benchmark), column)
    return frozenset(
        column
        for column in listed
        if (one := first[column.task, column.benchmark]).protocol == column.protocol and one.probe == column.probe
    )


def row_name(config: RunConfig) -> RowName:
    """The row of a run."""
    return config.variant, config.semantics_name


def row_order(row: RowName, names: RowNames) -> tuple[object, ...]:
    """Sort key of rows: untrained encoder, then phase by phase the baseline and the others by name."""
    return (row[0] != RANDOM, *names.order(row[0]), *row)


def _metric(metrics: Mapping[StudyBenchmark, MetricName], row: ResultRow, answers: Answers) -> ColumnMetric:
    name = _metric_name(metrics, row)
    return ColumnMetric(name, scale_of(name, answers.labels), row.target, row.unit)


def _metric_name(metrics: Mapping[StudyBenchmark, MetricName], row: ResultRow) -> MetricName:
    """The metric that decides; the first of its kind where none is named that measures the row."""
    name = metrics.get((row.study, row.benchmark))
    if name is None or (name in NUMBER_METRICS) != row.is_error:
        return "mae" if row.is_error else "accuracy"
    return name


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
