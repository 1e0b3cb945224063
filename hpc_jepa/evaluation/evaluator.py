"""Evaluate a run on a benchmark: one task, the named weights, one record."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolName, Task, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.outcome import TaskResult
from hpc_jepa.evaluation.progress import Progress, no_progress
from hpc_jepa.evaluation.record import AnyRecord, FewShotRecord, ProbeRecord, RobustnessRecord, TextRecord
from hpc_jepa.evaluation.run_encoders import open_trained_run
from hpc_jepa.evaluation.tasks import few_shot, probe, robustness, text


@dataclass(frozen=True)
class TaskSpec:
    """How a task is done, and the kind of record it leaves."""

    measure: Callable[[EvaluationContext, Sequence[Weights]], TaskResult | None]
    kind: type[AnyRecord]


TASKS: dict[Task, TaskSpec] = {
    "probe": TaskSpec(probe.evaluate_probes, ProbeRecord),
    "few_shot": TaskSpec(few_shot.evaluate_few_shot, FewShotRecord),
    "robustness": TaskSpec(robustness.evaluate_robustness, RobustnessRecord),
    "text": TaskSpec(text.evaluate_text, TextRecord),
}


def evaluate(
    folder: Path,
    benchmark: BenchmarkConfig,
    protocol: ProtocolName,
    weights: Sequence[Weights],
    *,
    task: Task = "probe",
    force: bool = False,
    progress: Progress = no_progress,
) -> AnyRecord | None:
    """Evaluate the newest checkpoint of a run and write the record; None on all processes but the first.

    Weights that the record already holds for this checkpoint, protocol and data are not evaluated again, unless
    ``force``. Raises InputError, DataError or CheckpointError in one line.
    """
    context, spec = EvaluationContext(open_trained_run(folder), benchmark, protocol, progress), TASKS[task]
    path = record.record_path(folder, benchmark.name, protocol, task)
    metadata = context.metadata(task)
    old = None if force or not path.is_file() else record.read_record(spec.kind, path)
    if old is not None and not _is_current(old, metadata, context, task):
        old = None
    known = {result.weights for result in old.results} if old else set()
    missing = [name for name in dict.fromkeys(weights) if name not in known]
    if old is not None and not missing:
        return old if is_main() else None
    outcome = spec.measure(context, missing)
    if outcome is None:
        return None
    kept = record.read_predictions(path, old) if old else {}
    metadata["results"] = [*(old.results if old else ()), *outcome.results]
    metadata["encoders"] = {**(old.encoders if old else {}), **outcome.encoders}
    return record.write_record(spec.kind, path, metadata, {**kept, **outcome.predictions})


def _is_current(old: AnyRecord, metadata: dict[str, Any], context: EvaluationContext, task: Task) -> bool:
    """Whether the record is of this checkpoint, protocol and data; fingerprints of older releases are accepted."""
    run = old.run
    if run.fingerprint in context.run.config.known_fingerprints():
        run = run.model_copy(update={"fingerprint": metadata["run"].fingerprint})
    known = context.config.known_fingerprints(None if task == "probe" else task)
    return run == metadata["run"] and old.data == metadata["data"] and old.protocol_fingerprint in known
