"""Predictions of the results, checked against their records and against each other."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import MetricName
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.record import (
    BaseRecord,
    FewShotRecord,
    Predictions,
    RobustnessRecord,
    TextRecord,
    read_predictions,
)
from hpc_jepa.evaluation.stats.metrics import class_metrics, clip_scores
from hpc_jepa.report.results import RecordSource, ResultRow, ResultSource
from hpc_jepa.report.row_names import RowNames, names_of
from hpc_jepa.report.run_report import RunReport

ROUNDING = 1e-9


def check_comparable(runs: Iterable[RunReport]) -> None:
    """Check that all records of one benchmark, protocol and task have the same data and protocol settings.

    Raises InputError naming two files that differ.
    """
    first: dict[tuple[str, str, str], tuple[str, dict[str, object]]] = {}
    for run in runs:
        for path, record in run.all_records:
            metadata: dict[str, object] = {
                "test split": record.data["test"],
                "training split": record.data["train"],
                "number of classes": record.classes,
                "target": getattr(record, "target", None),  # of probes alone
                **conditions(record),
                "protocol settings": record.comparable_fingerprint,
            }
            key = (record.benchmark, record.protocol, type(record).__name__)
            other, known = first.setdefault(key, (str(path), metadata))
            differing = [name for name, value in metadata.items() if known[name] != value]
            if differing:
                raise InputError(
                    f"{path} and {other} are not comparable: different {', '.join(differing)}; {REPORT_SEPARATELY}"
                )


def conditions(record: BaseRecord) -> dict[str, object]:
    """What the results of a task beside probes were measured under, by name: only equal ones are compared."""
    if isinstance(record, FewShotRecord):
        found = [(r.kind, r.ways, r.shots, r.count) for r in record.results]
        episodes = (record.pools or {}).get("episodes")
        return {
            "shots, ways or draws": frozenset(found),
            "class pool": record.draw_classes,
            "class pool of episodes": episodes.classes if episodes else tuple(range(record.classes)),
        }
    if isinstance(record, RobustnessRecord):
        measured = {(r.corruption, r.severity, r.level) for r in record.results}
        return {
            "corruptions": frozenset(measured),
            "probes on corrupted clips": frozenset(r.probe for r in record.results),
            "corrupted clips": frozenset(r.n for r in record.results),
        }
    if isinstance(record, TextRecord):
        return {"dropped frames": frozenset((r.lost_frames, r.dropout) for r in record.results)}
    return {}


@dataclass(frozen=True)
class Answers:
    """Classes or numbers that each probe seed predicts [S, n], and the labels or targets of the test samples [n]."""

    predicted: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True)
class CheckedPredictions:
    """The answers of each sound row. The rows have all metrics of a classifier, whatever release wrote the record.

    ``clusters``: for each row [n], equal for samples that were cut from one source video; None if unknown. Rows of one
    benchmark and protocol have the same. ``damaged``: one line for each record whose predictions are missing, damaged
    or contradict the recorded value.
    """

    answers: dict[ResultRow, Answers]
    damaged: Sequence[str]
    clusters: dict[ResultRow, NDArray[np.int64] | None]


def check_predictions(results: Mapping[ResultRow, ResultSource]) -> CheckedPredictions:
    """Read and check the predictions of all rows.

    Clusters that one record of a protocol lacks, because an older release wrote it, are those of the others. Raises
    InputError naming two records of one protocol with different test samples or clusters.
    """
    loaded: dict[str, Predictions] = {}
    answers: dict[ResultRow, Answers] = {}
    damaged: dict[Path, str] = {}
    for row, source in results.items():
        try:
            found = _answers(source, loaded)
            if not row.is_error:
                row = row.with_class_metrics(class_metrics(found.predicted, found.labels))
            answers[row] = found
        except DataError as error:
            damaged.setdefault(source.path, str(error))
    sound = {row: values for row, values in answers.items() if results[row].path not in damaged}
    first: dict[tuple[str, str], str] = {}
    for row in sound:
        path = str(results[row].path)
        other = first.setdefault((row.benchmark, row.protocol), path)
        if not all(np.array_equal(loaded[path][name], loaded[other][name]) for name in ("samples", "labels")):
            raise InputError(f"{path} and {other} are not comparable: different test samples; {REPORT_SEPARATELY}")
    clusters = _clusters(sound, {row: str(results[row].path) for row in sound}, loaded)
    return CheckedPredictions(sound, list(damaged.values()), clusters)


def split_by_steps(
    rows: Iterable[ResultRow], results: Mapping[ResultRow, RecordSource], names: Mapping[str, RowNames]
) -> tuple[list[ResultRow], list[str]]:
    """Rows that can be compared, and one line for each record of another step than most of its study, regime and
    phase; where a study asks about settings, its variants may have lengths of their own, and most runs of the variant
    count. ``names``: row names of each study.

    Finished runs count before unfinished ones, and of two equally frequent steps the later. Encoders that no run
    trained have no step.
    """
    listed = list(rows)
    counts: dict[_Peers, Counter[tuple[bool, int]]] = {}
    for row in listed:
        if row.is_trained:
            finished = row.steps >= results[row].record.run.steps
            for peers in _peers(row, names_of(names, row.study), finished):
                counts.setdefault(peers, Counter())[finished, row.steps] += 1
    usual = {key: max(found, key=lambda step: (step[0], found[step], step[1]))[1] for key, found in counts.items()}

    def expected(row: ResultRow) -> int:
        return next(usual[peers] for peers in _peers(row, names_of(names, row.study), True) if peers in usual)

    other = [row for row in listed if row.is_trained and row.steps != expected(row)]
    lines = [
        f"{row.name}, seed {row.seed} ({row.regime}): {_evaluated(row)} left out of all comparisons: "
        f"evaluated at step {row.steps:,}, the others at {expected(row):,}"
        for row in other
    ]
    left_out = set(other)
    return [row for row in listed if row not in left_out], list(dict.fromkeys(lines))


def _evaluated(row: ResultRow) -> str:
    task = "" if row.task == "probe" else f", {row.task}"
    return f"{row.benchmark}, {row.protocol}{task}"


_Peers = tuple[str, ...]
"""Study, regime and phase, and the variant if its runs may have a length of their own."""


def _peers(row: ResultRow, names: RowNames, finished: bool) -> list[_Peers]:
    """The groups of rows whose step counts for a row, the narrower first."""
    wide = (row.study, row.regime, names.phase(row.variant))
    own_length = finished and (names.declared or names.swept)
    return [(*wide, row.name), wide] if own_length else [wide]


def _clusters(
    rows: Iterable[ResultRow], paths: Mapping[ResultRow, str], loaded: Mapping[str, Predictions]
) -> dict[ResultRow, NDArray[np.int64] | None]:
    """The clusters of the test samples of each row, which all records of a protocol share that have them."""
    first: dict[tuple[str, str], str] = {}
    for row in rows:
        path = paths[row]
        if "clusters" not in loaded[path]:
            continue
        other = first.setdefault((row.benchmark, row.protocol), path)
        if not np.array_equal(loaded[path]["clusters"], loaded[other]["clusters"]):
            raise InputError(f"{path} and {other} are not comparable: different clusters; {REPORT_SEPARATELY}")
    return {
        row: loaded[first[key]]["clusters"] if (key := (row.benchmark, row.protocol)) in first else None for row in rows
    }


def _answers(source: ResultSource, loaded: dict[str, Predictions]) -> Answers:
    file = str(source.path)
    if file not in loaded:
        loaded[file] = read_predictions(source.path, source.record)
    predictions, key = loaded[file], source.result.key
    absent = [name for name in ("labels", "samples", key) if name not in predictions]
    if absent:
        raise DataError(f"{source.path}: no '{absent[0]}' in its predictions; {EVALUATE_AGAIN}")
    labels = predictions["labels"]
    if labels.ndim != 1 or {predictions[each].shape[-1] for each in ("samples", key)} != {len(labels)}:
        raise DataError(f"{source.path}: {key} and its labels have different lengths; {EVALUATE_AGAIN}")
    clusters = predictions.get("clusters", np.empty(0, np.int64))
    counted = source.record.clusters is not None or clusters.size
    if counted and (clusters.shape != labels.shape or len(np.unique(clusters)) != source.record.clusters):
        raise DataError(f"{source.path}: the clusters of its predictions are not those of its record; {EVALUATE_AGAIN}")
    largest = max(predictions["labels"].max(), predictions[key].max())
    if source.record.target is None and largest >= source.record.classes:
        raise DataError(
            f"{source.path}: {source.record.classes} classes, but its predictions or labels contain class {largest} "
            f"(counted from 0); {EVALUATE_AGAIN}"
        )
    name: MetricName = "accuracy" if source.result.metric == "top1" else "mae"
    measured = float(clip_scores(name, predictions[key], labels).mean())
    if labels.size != source.result.n or abs(measured - source.result.value) > ROUNDING * max(1.0, measured):
        raise DataError(
            f"{source.path}: {key} is {source.result.value:.4f} of {source.result.n} clips, but its predictions give "
            f"{measured:.4f} of {labels.size}; {EVALUATE_AGAIN}"
        )
    return Answers(np.atleast_2d(predictions[key]), labels)


REPORT_SEPARATELY = "evaluate one of them again with --force, or report them separately"
EVALUATE_AGAIN = "evaluate again: hpc-jepa evaluate --force"
