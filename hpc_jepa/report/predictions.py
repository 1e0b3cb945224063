"""Predictions behind the results: read once, checked against their record, and comparable or refused."""

from collections.abc import Iterable, Mapping

import numpy as np

from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.record import Predictions
from hpc_jepa.evaluation.stats.paired import Correct
from hpc_jepa.report.results import ResultRow, ResultSource
from hpc_jepa.report.run_report import RunReport

ROUNDING = 1e-9


def check_comparable(runs: Iterable[RunReport]) -> None:
    """All records of one benchmark, protocol and task must judge by the same protocol on the same data.

    Raises InputError naming both files where two do not.
    """
    first: dict[tuple[str, str, str], tuple[str, dict[str, object]]] = {}
    for run in runs:
        for path, found in run.all_records:
            facts: dict[str, object] = {
                "test split": found.data["test"],
                "training split of the probe": found.data["train"],
                "number of classes": found.classes,
                "settings of the protocol": found.comparable_fingerprint,
            }
            key = (found.benchmark, found.protocol, type(found).__name__)
            other, known = first.setdefault(key, (str(path), facts))
            differing = [name for name, value in facts.items() if known[name] != value]
            if differing:
                raise InputError(
                    f"{path} and {other} cannot be compared: another {' and another '.join(differing)} of "
                    f"{found.benchmark}, {found.protocol}; {APART}"
                )


def correct_predictions(found: Mapping[ResultRow, ResultSource]) -> dict[ResultRow, Correct]:
    """Which test samples each probe seed of a row gets right, [S, n].

    Raises DataError naming the record where predictions are missing, damaged, or do not give the recorded value, and
    InputError naming both where two records list the samples of one test split in another order.
    """
    held: dict[str, Predictions] = {}
    correct = {row: _correct(source, held) for row, source in found.items()}
    first: dict[tuple[str, str], str] = {}
    for row, source in found.items():
        path = str(source.path)
        other = first.setdefault((row.benchmark, row.protocol), path)
        if not all(np.array_equal(held[path][name], held[other][name]) for name in ("samples", "labels")):
            raise InputError(f"{path} and {other} cannot be compared: their test samples differ; {APART}")
    return correct


def _correct(source: ResultSource, held: dict[str, Predictions]) -> Correct:
    name = str(source.path)
    if name not in held:
        held[name] = record.read_predictions(source.path, source.record)
    predictions, key = held[name], source.result.key
    absent = [wanted for wanted in ("labels", "samples", key) if wanted not in predictions]
    if absent:
        raise DataError(f"{source.path}: its predictions hold no '{absent[0]}'; {AGAIN}")
    largest = max(predictions["labels"].max(), predictions[key].max())
    if largest >= source.record.classes:
        raise DataError(
            f"{source.path}: class-count mismatch: it says {source.record.classes} classes, but its predictions or "
            f"labels name class {largest}, counted from 0; {AGAIN}"
        )
    correct = record.is_correct(predictions, key)
    if correct.shape[-1] != source.result.n or abs(correct.mean() - source.result.value) > ROUNDING:
        raise DataError(
            f"{source.path}: {key} is recorded as {source.result.value:.4f} of {source.result.n} clips, but its "
            f"predictions give {correct.mean():.4f} of {correct.shape[-1]}; {AGAIN}"
        )
    return np.atleast_2d(correct)


APART = "evaluate one of them again with --force, or report them apart"
AGAIN = "run 'hpc-jepa evaluate' with --force to write it again"
