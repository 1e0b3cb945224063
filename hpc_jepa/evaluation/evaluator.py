"""Evaluate a run on a benchmark: one task, the named weights, one record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolName, Task, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.evaluation import few_shot, probing, record, robustness, text
from hpc_jepa.evaluation.outcome import Outcome
from hpc_jepa.evaluation.progress import Progress, silent
from hpc_jepa.evaluation.record import (
    AnyRecord,
    EvaluationRecord,
    FewShotRecord,
    RobustnessRecord,
    TextRecord,
)
from hpc_jepa.evaluation.subject import Subject
from hpc_jepa.evaluation.weights import open_run


@dataclass(frozen=True)
class Judging:
    """How a task is done, and the kind of record it leaves."""

    measure: Callable[[Subject, Sequence[Weights]], Outcome | None]
    kind: type[AnyRecord]


TASKS: dict[Task, Judging] = {
    "probe": Judging(probing.measure, EvaluationRecord),
    "few_shot": Judging(few_shot.measure, FewShotRecord),
    "robustness": Judging(robustness.measure, RobustnessRecord),
    "text": Judging(text.measure, TextRecord),
}


def evaluate(
    folder: Path,
    benchmark: BenchmarkConfig,
    protocol: ProtocolName,
    weights: Sequence[Weights],
    *,
    task: Task = "probe",
    force: bool = False,
    progress: Progress = silent,
) -> AnyRecord | None:
    """Evaluate the newest checkpoint of a run and write the record; None on all processes but the first.

    Weights that the record already holds for this checkpoint, protocol and data are not evaluated again, unless
    ``force``. Raises InputError, DataError or CheckpointError in one line.
    """
    subject, judging = Subject(open_run(folder), benchmark, protocol, progress), TASKS[task]
    path = record.record_path(folder, benchmark.name, protocol, task)
    facts = subject.facts(task)
    old = None if force or not path.is_file() else record.read_as(judging.kind, path)
    if old is not None and not _same_work(old, facts):
        old = None
    known = {result.weights for result in old.results} if old else set()
    missing = [name for name in dict.fromkeys(weights) if name not in known]
    if old is not None and not missing:
        return old if is_main() else None
    outcome = judging.measure(subject, missing)
    if outcome is None:
        return None
    kept = record.read_predictions(path, old) if old else {}
    facts["results"] = [*(old.results if old else ()), *outcome.results]
    facts["encoders"] = {**(old.encoders if old else {}), **outcome.encoders}
    return record.write_as(judging.kind, path, facts, {**kept, **outcome.predictions})


def _same_work(old: AnyRecord, facts: dict[str, Any]) -> bool:
    """Whether the record is about this checkpoint, protocol and data."""
    return all(getattr(old, key) == facts[key] for key in ("run", "protocol_fingerprint", "data"))
