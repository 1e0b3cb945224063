"""Results of the few-shot, robustness and text tasks as rows, checked against their predictions."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.conditions import MEAN, condition_of
from hpc_jepa.evaluation.record import (
    FewShotRecord,
    FewShotResult,
    Predictions,
    RobustnessRecord,
    RobustnessResult,
    TextRecord,
    TextResult,
    accuracy_fields,
    read_predictions,
)
from hpc_jepa.evaluation.stats.metrics import class_metrics
from hpc_jepa.evaluation.tasks.robustness import CLEAN
from hpc_jepa.report.predictions import EVALUATE_AGAIN, REPORT_SEPARATELY, ROUNDING
from hpc_jepa.report.results import TRAINED, ResultColumn, ResultRow
from hpc_jepa.report.run_report import RunReport

TaskRecord = FewShotRecord | RobustnessRecord | TextRecord
TaskOutcome = FewShotResult | RobustnessResult | TextResult
Counts = NDArray[Any]

RECALL = "R@"
"""Begin of a metric of text: the share of queries whose first correct answer is among the first so many."""


@dataclass(frozen=True)
class TaskSource:
    """A result with its record and the file of it; None: computed from all results of the record."""

    path: Path
    record: TaskRecord
    result: TaskOutcome | None


@dataclass(frozen=True)
class TaskAnswers:
    """Right answers of one row: ``counts`` [D, n] of ``whole`` under each of D draws of labels (D is 1 without).

    They are of clips with ``labels`` [n], or of episodes or captions, ``counted``, which have none.
    """

    counts: Counts
    whole: int = 1
    labels: NDArray[np.int64] | None = None
    clusters: NDArray[np.int64] | None = None
    counted: str = "clips"


@dataclass(frozen=True)
class TaskResults:
    """The sound rows of all task records with answers and sources. ``damaged``: one line for each other record."""

    answers: dict[ResultRow, TaskAnswers] = field(default_factory=dict)
    sources: dict[ResultRow, TaskSource] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()


def collect_task_results(runs: Iterable[RunReport]) -> TaskResults:
    """Read and check the records of the tasks beside probes, one after the other.

    A random encoder appears once per study, regime and seed, an external one once per study and regime. Raises
    InputError naming two records of one protocol with different test samples or clusters.
    """
    found, damaged = TaskResults(), []
    first: dict[tuple[str, ...], tuple[Path, Predictions]] = {}
    clusters: dict[tuple[str, ...], tuple[Path, NDArray[np.int64]]] = {}
    seen: set[tuple[object, ...]] = set()
    for path, record in _records(runs):
        try:
            predictions = read_predictions(path, record)
            _check_clips(path, record, predictions)
            rows = list(_rows(path, record, predictions))
        except DataError as error:
            damaged.append(str(error))
            continue
        key: tuple[str, ...] = (record.benchmark, record.protocol, record.task)
        _check_same_clips(path, predictions, *first.setdefault(key, (path, _clips_alone(predictions))))
        if "clusters" in predictions:
            _check_same_clusters(path, predictions, *clusters.setdefault(key, (path, predictions["clusters"])))
        for row, source, answers in rows:
            if (identity := _identity(row)) not in seen:
                seen.add(identity)
                found.answers[row], found.sources[row] = answers, source
    known = {}
    for row, answers in found.answers.items():
        key = (row.benchmark, row.protocol, row.task)
        if key in clusters and answers.counted == "clips":
            known[row] = replace(answers, clusters=clusters[key][1])
    return TaskResults(found.answers | known, found.sources, tuple(damaged))


def _records(runs: Iterable[RunReport]) -> Iterator[tuple[Path, TaskRecord]]:
    for run in runs:
        yield from run.few_shot.items()
        yield from run.robustness.items()
        yield from run.text.items()


def _identity(row: ResultRow) -> tuple[object, ...]:
    seed = row.seed if row.is_trained or row.is_random else None
    return (row.study, row.regime, row.variant, row.semantics, seed, row.weights, ResultColumn.of(row))


def _rows(
    path: Path, record: TaskRecord, predictions: Predictions
) -> Iterator[tuple[ResultRow, TaskSource, TaskAnswers]]:
    """The row, source and answers of each result. Raises DataError if the predictions contradict it."""
    for result in record.results:
        if result.key not in predictions:
            raise DataError(f"{path}: no '{result.key}' in its predictions; {EVALUATE_AGAIN}")
        values = predictions[result.key]
        answers = _answers(path, record, result, values, predictions["labels"])
        measured = float((answers.counts / answers.whole).mean())
        n = answers.counts.shape[1] if answers.counted != "episodes" else result.n
        if n != result.n or abs(measured - result.value) > ROUNDING:
            raise DataError(
                f"{path}: {result.key} is {result.value:.4f} of {result.n}, but its predictions give {measured:.4f} of "
                f"{n}; {EVALUATE_AGAIN}"
            )
        row = _row(record, result)
        if answers.labels is not None:
            row = row.with_class_metrics(class_metrics(values, answers.labels))
        yield row, TaskSource(path, record, result), answers
    if isinstance(record, RobustnessRecord):
        yield from _means(path, record, predictions)


def _answers(
    path: Path, record: TaskRecord, result: TaskOutcome, values: NDArray[Any], labels: NDArray[np.int64]
) -> TaskAnswers:
    if isinstance(result, FewShotResult) and result.kind == "episodes":
        if values.shape != (result.count,) or values.min() < 0 or values.max() > result.n:
            raise DataError(f"{path}: {result.key} is not the right answers of each episode; {EVALUATE_AGAIN}")
        return TaskAnswers(_small(values[None]), result.n, counted="episodes")
    rows = np.atleast_2d(values)
    if isinstance(result, TextResult) and result.metric.startswith(RECALL):
        right = rows < int(result.metric.removeprefix(RECALL))  # ranks are counted from 0
        if result.direction == "text_to_video":
            return TaskAnswers(_small(right.sum(axis=0)[None]), len(right), counted="captions")
        return TaskAnswers(_small(_of_clips(path, result, right, labels).sum(axis=0)[None]), len(right))
    if max(rows.max(), labels.max()) >= record.classes:
        raise DataError(
            f"{path}: {record.classes} classes, but {result.key} or its labels contain class "
            f"{max(rows.max(), labels.max())} (counted from 0); {EVALUATE_AGAIN}"
        )
    right = _of_clips(path, result, rows, labels) == labels
    if isinstance(result, FewShotResult):
        if len(right) != result.count:
            raise DataError(f"{path}: {result.key} has {len(right)} draws, not {result.count}; {EVALUATE_AGAIN}")
        return TaskAnswers(right.astype(np.uint8), 1, labels)
    return TaskAnswers(_small(right.sum(axis=0)[None]), len(right), labels)


def _of_clips(path: Path, result: TaskOutcome, values: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[Any]:
    if values.shape[1] != len(labels):
        raise DataError(f"{path}: {result.key} and its labels have different lengths; {EVALUATE_AGAIN}")
    return values


def _means(
    path: Path, record: RobustnessRecord, predictions: Predictions
) -> Iterator[tuple[ResultRow, TaskSource, TaskAnswers]]:
    """Rows of the mean over severities and then over corruptions, of each encoder and probe."""
    labels = predictions["labels"]
    for weights, probe in dict.fromkeys((result.weights, result.probe) for result in record.results):
        own = [result for result in record.results if (result.weights, result.probe) == (weights, probe)]
        corrupted = [result for result in own if result.corruption != CLEAN]
        if not corrupted:
            continue
        severities = {name: sum(r.corruption == name for r in corrupted) for name in (r.corruption for r in corrupted)}
        parts = [1 / severities[result.corruption] / len(severities) for result in corrupted]
        shares = [np.atleast_2d(predictions[result.key] == labels).mean(axis=0) for result in corrupted]
        mean = np.tensordot(parts, np.stack(shares), 1)
        row = _row(record, corrupted[0])
        metrics = [class_metrics(predictions[result.key], labels) for result in corrupted]
        by_class = np.tensordot(parts, [(each.mean_class_accuracy, each.macro_f1) for each in metrics], 1)
        fields = accuracy_fields(mean[None], predictions.get("clusters"))
        row = replace(
            row,
            condition=MEAN,
            **{name: 100 * fields[name] for name in ("value", "low", "high")},
            mean_class_accuracy=100 * float(by_class[0]),
            macro_f1=100 * float(by_class[1]),
            majority=100 * metrics[0].majority,
        )
        yield row, TaskSource(path, record, None), TaskAnswers(mean[None], 1, labels)


def _row(record: TaskRecord, result: TaskOutcome) -> ResultRow:
    """The row of a result, without the metrics of its predictions."""
    run, trained = record.run, result.weights in TRAINED
    return ResultRow(
        study=run.study,
        regime=run.regime,
        variant=run.variant if trained else result.weights,
        semantics=run.semantics_name if trained else "none",
        seed=run.seed,
        weights=result.weights,
        benchmark=record.benchmark,
        protocol=record.protocol,
        probe=result.probe if isinstance(result, RobustnessResult) else "",
        metric=result.metric if isinstance(result, TextResult) else "top1",
        value=100 * result.value,
        low=100 * result.low,
        high=100 * result.high,
        n=result.n,
        steps=run.step if trained else 0,
        clusters=record.clusters,
        classes=record.classes,
        task=record.task,
        condition=condition_of(result),
    )


def _small(counts: Counts) -> Counts:
    """The counts in the smallest type of integers that holds them."""
    return counts.astype(np.min_scalar_type(int(counts.max())))


def _check_clips(path: Path, record: TaskRecord, predictions: Predictions) -> None:
    """Raise DataError if clips, labels and clusters of the predictions do not fit each other or the record."""
    absent = [name for name in ("labels", "samples") if name not in predictions]
    if absent:
        raise DataError(f"{path}: no '{absent[0]}' in its predictions; {EVALUATE_AGAIN}")
    labels = predictions["labels"]
    if labels.ndim != 1 or predictions["samples"].shape != labels.shape:
        raise DataError(f"{path}: its samples and labels have different lengths; {EVALUATE_AGAIN}")
    clusters = predictions.get("clusters", np.empty(0, np.int64))
    counted = record.clusters is not None or clusters.size
    if counted and (clusters.shape != labels.shape or len(np.unique(clusters)) != record.clusters):
        raise DataError(f"{path}: the clusters of its predictions are not those of its record; {EVALUATE_AGAIN}")


def _clips_alone(predictions: Predictions) -> Predictions:
    return {name: predictions[name] for name in ("samples", "labels")}


def _check_same_clips(path: Path, predictions: Predictions, other: Path, known: Mapping[str, NDArray[Any]]) -> None:
    if not all(np.array_equal(predictions[name], known[name]) for name in ("samples", "labels")):
        raise InputError(f"{path} and {other} are not comparable: different test samples; {REPORT_SEPARATELY}")


def _check_same_clusters(path: Path, predictions: Predictions, other: Path, known: NDArray[np.int64]) -> None:
    if not np.array_equal(predictions["clusters"], known):
        raise InputError(f"{path} and {other} are not comparable: different clusters; {REPORT_SEPARATELY}")
