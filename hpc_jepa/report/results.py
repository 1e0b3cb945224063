"""Results of all runs as rows of one table."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from hpc_jepa.config.benchmark import Task
from hpc_jepa.evaluation.record import BaseRecord, ProbeRecord, ProbeResult
from hpc_jepa.evaluation.stats.metrics import ClassMetrics, is_unbalanced
from hpc_jepa.report.run_report import RunReport

RANDOM = "random_init"

TRAINED = ("target", "student")
"""Weights that a run trains. All others do not depend on the variant."""


@dataclass(frozen=True)
class ResultRow:
    """One result.

    ``value``, ``low``, ``high``: accuracy (metric top1) in percent, or mean absolute error (mae) in the unit of the
    target. ``clusters``: source videos, None if unknown.

    ``semantics``: the preset and the switches that the run is named after, as ``semantics_name`` writes them. Encoders
    that no run trained (``random_init`` of each seed, external encoders) have their weights as variant, semantics
    ``none`` and 0 steps.

    ``task``, ``condition``: of another task than probes what it measures, see ``evaluation/conditions.py``; its
    ``metric`` is as recorded, in percent.

    The rest does not identify a row. ``classes``: of the benchmark. ``mean_class_accuracy``, ``macro_f1``, ``majority``
    (in percent) and ``predicted_classes``: see ``ClassMetrics``; None if neither the record nor sound predictions give
    them. ``target``, ``unit``: the number that is predicted. ``r2`` with its interval, and ``constant``, the mean
    absolute error of the best constant: None of classes.
    """

    study: str
    regime: str
    variant: str
    semantics: str
    seed: int
    weights: str
    benchmark: str
    protocol: str
    probe: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    steps: int
    clusters: int | None = None
    classes: int = field(default=0, compare=False)
    mean_class_accuracy: float | None = field(default=None, compare=False)
    macro_f1: float | None = field(default=None, compare=False)
    predicted_classes: int | None = field(default=None, compare=False)
    majority: float | None = field(default=None, compare=False)
    target: str = field(default="", compare=False)
    unit: str = field(default="", compare=False)
    r2: float | None = field(default=None, compare=False)
    r2_low: float | None = field(default=None, compare=False)
    r2_high: float | None = field(default=None, compare=False)
    constant: float | None = field(default=None, compare=False)
    task: Task = "probe"
    condition: str = ""

    def with_class_metrics(self, metrics: ClassMetrics) -> "ResultRow":
        """The row with metrics that were computed from its predictions."""
        return replace(
            self,
            mean_class_accuracy=100 * metrics.mean_class_accuracy,
            macro_f1=100 * metrics.macro_f1,
            predicted_classes=metrics.predicted_classes,
            majority=100 * metrics.majority,
        )

    @property
    def is_error(self) -> bool:
        """Whether the value is an error: lower is better."""
        return self.metric == "mae"

    @property
    def quality(self) -> float:
        """A number that is higher for a better result."""
        return -self.value if self.is_error else self.value

    @property
    def axis(self) -> str:
        """What the value measures, with its unit."""
        return error_title(self.target, self.unit) if self.is_error else "accuracy, %"

    def number(self, value: float) -> str:
        """The value or an end of its interval as text: a percentage with one decimal, an error with four digits."""
        return f"{value:.4g}" if self.is_error else f"{value:.1f}"

    @property
    def cell(self) -> str:
        """``value [low, high]``."""
        value, low, high = map(self.number, (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"

    @property
    def explained(self) -> str:
        """R² with its interval, as text; empty of classes."""
        if self.r2 is None:
            return ""
        interval = "" if self.r2_low is None or self.r2_high is None else f" [{self.r2_low:.3f}, {self.r2_high:.3f}]"
        return f"R² {self.r2:.3f}{interval}"

    @property
    def is_unbalanced(self) -> bool:
        """Whether one class is so frequent that accuracy alone says little."""
        return self.majority is not None and is_unbalanced(self.majority / 100, self.classes)

    @property
    def by_class(self) -> str:
        """Mean class accuracy, macro F1 and predicted classes, as text."""
        if self.mean_class_accuracy is None or self.macro_f1 is None:
            return ""
        return f"{self.mean_class_accuracy:.1f} / {self.macro_f1:.1f} / {self.predicted_classes} of {self.classes}"

    @property
    def is_random(self) -> bool:
        """Whether the encoder is untrained."""
        return self.weights == RANDOM

    @property
    def is_trained(self) -> bool:
        """Whether a run of the study trained the encoder."""
        return self.weights in TRAINED

    @property
    def encoder(self) -> str:
        """Name, weights and seed of the encoder."""
        if self.is_trained:
            return f"{self.name}, {self.weights}, seed {self.seed}"
        return f"{RANDOM}, seed {self.seed}" if self.is_random else self.variant

    @property
    def name(self) -> str:
        """Variant with its semantics."""
        return f"{self.variant} ({self.semantics})" if self.is_trained else self.variant

    @property
    def formatted(self) -> str:
        """The value with its unit and interval, as text."""
        value, low, high = map(self.number, (self.value, self.low, self.high))
        unit = self.unit if self.is_error else "%"
        return f"{value}{f' {unit}' if unit else ''} [{low}, {high}]"


@dataclass(frozen=True)
class ResultColumn:
    """A column of results that are compared: one probe of a protocol of a benchmark, or one condition of a task.

    ``condition`` and ``metric``: of a further task, as in its rows; empty of probes. ``probe``: empty where the task
    has none.
    """

    benchmark: str
    protocol: str
    probe: str
    task: Task = "probe"
    condition: str = ""
    metric: str = ""

    @classmethod
    def of(cls, row: ResultRow) -> "ResultColumn":
        """The column of a row."""
        if row.task == "probe":
            return cls(row.benchmark, row.protocol, row.probe)
        return cls(row.benchmark, row.protocol, row.probe, row.task, row.condition, row.metric)

    def __str__(self) -> str:
        shown = "" if self.metric == "top1" else self.metric
        parts = (self.benchmark, self.protocol, self.probe.replace("_", " "), self.condition, shown)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, order=True)
class Panel:
    """Comparable results: same regime, benchmark, protocol and probe."""

    regime: str
    benchmark: str
    protocol: str
    probe: str


class RecordSource(Protocol):
    """The record of a result, and the file of it."""

    @property
    def path(self) -> Path:
        """File of the record."""

    @property
    def record(self) -> BaseRecord:
        """The record."""


@dataclass(frozen=True)
class ResultSource:
    """A result with its record and the file of it."""

    path: Path
    record: ProbeRecord
    result: ProbeResult


def collect_results(runs: Iterable[RunReport]) -> dict[ResultRow, ResultSource]:
    """Rows of all records. A random encoder appears once per study, regime and seed, an external encoder once per study
    and regime, whichever run recorded it.
    """
    results: dict[ResultRow, ResultSource] = {}
    seen: set[tuple[object, ...]] = set()
    for source in _recorded(runs):
        row = result_row(source)
        seed = row.seed if row.is_trained or row.is_random else None
        key = (row.study, row.regime, row.variant, row.semantics, seed, row.weights, panel_of(row))
        if key not in seen:
            seen.add(key)
            results[row] = source
    return results


def panel_of(row: ResultRow) -> Panel:
    """The panel of a row."""
    return Panel(row.regime, row.benchmark, row.protocol, row.probe)


def group_by_panel(rows: Iterable[ResultRow]) -> dict[Panel, list[ResultRow]]:
    """Rows by panel in order of first appearance; in a panel random encoders first, then by variant."""
    grouped: dict[Panel, list[ResultRow]] = {}
    for row in rows:
        grouped.setdefault(panel_of(row), []).append(row)
    return {key: sorted(group, key=_order) for key, group in grouped.items()}


def _recorded(runs: Iterable[RunReport]) -> Iterator[ResultSource]:
    for run in runs:
        for path, record in run.records.items():
            for result in record.results:
                yield ResultSource(path, record, result)


def result_row(source: ResultSource) -> ResultRow:
    """The row of a result."""
    run, result = source.record.run, source.result
    trained, target = result.weights in TRAINED, source.record.target
    factor = 100 if target is None else 1
    return ResultRow(
        study=run.study,
        regime=run.regime,
        variant=run.variant if trained else result.weights,
        semantics=run.semantics_name if trained else "none",
        seed=run.seed,
        weights=result.weights,
        benchmark=source.record.benchmark,
        protocol=source.record.protocol,
        probe=result.probe,
        metric=result.metric,
        value=factor * result.value,
        low=factor * result.low,
        high=factor * result.high,
        n=result.n,
        steps=run.step if trained else 0,
        clusters=source.record.clusters,
        classes=source.record.classes,
        mean_class_accuracy=_percent(result.mean_class_accuracy),
        macro_f1=_percent(result.macro_f1),
        predicted_classes=result.predicted_classes,
        majority=_percent(result.majority),
        target=target.key if target else "",
        unit=target.unit if target else "",
        r2=result.r2,
        r2_low=result.r2_low,
        r2_high=result.r2_high,
        constant=result.constant,
    )


def error_title(target: str, unit: str) -> str:
    """``mean absolute error of <target>, <unit>``."""
    return f"mean absolute error of {target}{f', {unit}' if unit else ''}"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _order(row: ResultRow) -> tuple[object, ...]:
    return (not row.is_random, row.study, row.variant, row.semantics, row.seed, row.weights != "target")
