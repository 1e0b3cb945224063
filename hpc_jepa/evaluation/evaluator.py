"""Evaluate runs on a benchmark: one task, the chosen weights, one record of each run and step."""

import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from hpc_jepa.checkpoint.layout import READ_ATTEMPTS, RemovedCheckpointError
from hpc_jepa.checkpoint.retention import prune_after_evaluation
from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolName, TargetConfig, Task, Weights
from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, manifest_hash, read_manifest
from hpc_jepa.distributed import GlooGroup, is_main, world_size
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.context import EvaluationContext, StepNotKeptError
from hpc_jepa.evaluation.extraction import TokenEncoder
from hpc_jepa.evaluation.progress import Advance, Notify, Progress, no_notice, no_progress
from hpc_jepa.evaluation.record import (
    RECORD_TYPES,
    AnyRecord,
    FewShotRecord,
    ProbeRecord,
    RunIdentity,
    TaskResult,
    read_predictions,
    read_record,
    rewrite_record,
    write_record,
)
from hpc_jepa.evaluation.split_clips import COLLECTIVE_TIMEOUT, FeatureWork, SplitClips
from hpc_jepa.evaluation.tasks.few_shot import evaluate_few_shot
from hpc_jepa.evaluation.tasks.probe import evaluate_probes
from hpc_jepa.evaluation.tasks.robustness import evaluate_robustness
from hpc_jepa.evaluation.tasks.text import evaluate_text
from hpc_jepa.evaluation.together import IsolatingGroup, run_alone, run_together
from hpc_jepa.io.atomic import exclusive_lock
from hpc_jepa.io.revision import code_revision
from hpc_jepa.runs.run_dir import open_run
from hpc_jepa.training.launch import (
    check_launcher_variables,
    init_from_launcher,
    report_lost_peers,
    set_ranks_from_slurm,
)

LOG = logging.getLogger(__name__)
SOFTWARE_PACKAGES = ("hpc_jepa", "torch", "scikit-learn", "statsmodels", "scipy", "numpy")


TASKS: dict[Task, Callable[[EvaluationContext, dict[Weights, TokenEncoder]], FeatureWork[TaskResult | None]]] = {
    "probe": evaluate_probes,
    "few_shot": evaluate_few_shot,
    "robustness": evaluate_robustness,
    "text": evaluate_text,
}
NOT_KEPT = (RemovedCheckpointError, StepNotKeptError)
"""Errors of a step whose checkpoint the run does not have, or no longer; all processes raise them together."""


@dataclass(frozen=True)
class RunEvaluation:
    """Weights of a run to evaluate; step: that of a checkpoint, None for the newest one."""

    folder: Path
    weights: tuple[Weights, ...]
    step: int | None = None


class EvaluatedRun(NamedTuple):
    """The record of an evaluation, None on all processes but the first, or the error that ended it."""

    wanted: RunEvaluation
    record: AnyRecord | None = None
    error: Exception | None = None


def evaluate(
    folder: Path,
    benchmark: BenchmarkConfig,
    protocol: ProtocolName,
    weights: Sequence[Weights],
    *,
    task: Task = "probe",
    force: bool = False,
    progress: Progress = no_progress,
    device: DeviceSetting | None = None,
    step: int | None = None,
) -> AnyRecord | None:
    """Evaluate the latest checkpoint of a run, or that of ``step``, and write the record; None on all processes but the
    first.

    Weights that the record already contains for this checkpoint, protocol and data are skipped, unless ``force``.
    ``device``: None: as the run's engine.device.
    Raises InputError, DataError or CheckpointError with a one-line message.
    """
    wanted = RunEvaluation(folder, tuple(weights), step)
    [evaluated] = evaluate_runs([wanted], benchmark, protocol, task=task, force=force, progress=progress, device=device)
    if evaluated.error is not None:
        raise evaluated.error
    return evaluated.record


def evaluate_runs(
    runs: Sequence[RunEvaluation],
    benchmark: BenchmarkConfig,
    protocol: ProtocolName,
    *,
    task: Task = "probe",
    force: bool = False,
    progress: Progress = no_progress,
    device: DeviceSetting | None = None,
    notify: Notify = no_notice,
) -> Iterator[EvaluatedRun]:
    """Evaluate several runs, or checkpoints of one, and read and decode each clip once for all of them. Collective.

    Every record is that of :func:`evaluate`, to the bit on one processor, and is written as soon as it is complete. A
    run that fails is returned with its error and leaves the others alone. Two limits may need a second pass, which
    ``notify`` announces: ``feature_limit`` holds for the features of all runs together, and their encoders are at most
    :data:`hpc_jepa.evaluation.together.ENCODER_BYTES`. With several processes, probes that are trained while the
    encoder runs are evaluated one run after the other, and a failure ends all. Raises InputError for an unknown
    protocol, probe, or task of the benchmark.
    """
    if benchmark.target is not None and task != "probe":
        raise InputError(
            f"{benchmark.name}: --task {task} needs classes; probes alone predict the target of a benchmark"
        )
    distinct = {(each.folder.resolve(), each.step, each.weights): each for each in runs}
    wanted = list(distinct.values())
    clips = SplitClips.open(benchmark, protocol, progress, IsolatingGroup(COLLECTIVE_TIMEOUT))
    labels = _labels(wanted)

    def work(number: int) -> FeatureWork[AnyRecord | None]:
        labelled = _labelled(progress, labels[number]) if len(wanted) > 1 else progress
        return _evaluate_run(wanted[number], clips, task, force, labelled, device)

    if len(wanted) == 1 or (world_size() > 1 and task == "probe" and clips.config.poolers):
        for number, each in enumerate(wanted):
            try:
                yield EvaluatedRun(each, run_alone(work(number), clips))
            except NOT_KEPT as error:
                yield EvaluatedRun(each, error=error)
        return
    for outcome in run_together([work(number) for number in range(len(wanted))], clips, notify):
        yield EvaluatedRun(wanted[outcome.number], outcome.value, outcome.error)


def _labels(runs: Sequence[RunEvaluation]) -> list[str]:
    """Names of evaluations in titles: what differs between their folders, and steps."""
    folders = [each.folder.resolve() for each in runs]
    common = os.path.commonpath(folders)
    names = [() if str(folder) == common else (str(folder.relative_to(common)),) for folder in folders]
    steps = [() if each.step is None else (f"step {each.step}",) for each in runs]
    return [" ".join((*name, *step)) or str(common) for name, step in zip(names, steps, strict=True)]


def _labelled(progress: Progress, label: str) -> Progress:
    def labelled(title: str, total: int) -> AbstractContextManager[Advance]:
        return progress(f"{title}, {label}", total)

    return labelled


def _evaluate_run(
    wanted: RunEvaluation,
    clips: SplitClips,
    task: Task,
    force: bool,
    progress: Progress,
    device: DeviceSetting | None,
) -> FeatureWork[AnyRecord | None]:
    """Evaluate the chosen checkpoint of a run, or the newest one, also if training removes it meanwhile."""
    context = EvaluationContext.open(wanted.folder, clips, progress, device, wanted.step)
    if wanted.step is not None:
        record = yield from _evaluate(context, wanted.weights, task, force)
        if task == "probe" and is_main():
            prune_after_evaluation(context.run, clips.benchmark.name, context.protocol)
        return record
    for _ in range(READ_ATTEMPTS - 1):
        try:
            return (yield from _evaluate(context, wanted.weights, task, force))
        except RemovedCheckpointError:  # raised before anything is computed
            context = context.with_newest_checkpoint()
    return (yield from _evaluate(context, wanted.weights, task, force))


def _evaluate(
    context: EvaluationContext, weights: Sequence[Weights], task: Task, force: bool
) -> FeatureWork[AnyRecord | None]:
    """Evaluate one checkpoint. Raises RemovedCheckpointError if the training run has removed it meanwhile."""
    record_type = RECORD_TYPES[task]
    path = context.run.record_file(context.benchmark.name, context.protocol, task, context.step)
    metadata = _metadata(context, task)
    read_at = path.stat().st_mtime_ns if path.is_file() else None
    old = None if force or read_at is None else read_record(record_type, path)
    if old is not None and not _is_current(old, metadata, context, task):
        old = None
    evaluated = dict.fromkeys(result.weights for result in old.results) if old else {}
    missing = [name for name in dict.fromkeys(weights) if name not in evaluated]
    if missing and isinstance(old, FewShotRecord) and old.pools is None:  # other classes than those of new results
        missing, old = [*evaluated, *missing], None
    missing = context.group.gather_objects(missing)[0]  # another command may write the record just now
    if not missing:
        return _with_deciding_metric(old, path, context.benchmark) if old is not None and is_main() else None
    context.clips.check_splits()
    encoders = context.encoders(missing)
    result = yield from TASKS[task](context, encoders)
    if result is None:
        return None
    metadata |= {"results": result.results, **result.facts}
    metadata["encoders"] = {name: encoder.sha256 for name, encoder in encoders.items() if encoder.sha256}
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(path.with_name(f".{path.name}.lock"), wait=True):
        if path.is_file() and path.stat().st_mtime_ns != read_at:  # another command has added other weights meanwhile
            now = read_record(record_type, path)
            old = now if _is_current(now, metadata, context, task) else None
        predictions = result.predictions
        if old is not None:
            kept = [each for each in old.results if each.weights not in missing]
            replaced = {each.key for each in old.results} - {each.key for each in kept}
            stored = {key: values for key, values in read_predictions(path, old).items() if key not in replaced}
            predictions = {**stored, **predictions}
            metadata["results"] = [*kept, *result.results]
            metadata["encoders"] = {**old.encoders, **metadata["encoders"]}
        record = write_record(record_type, path, metadata, predictions)
    if task == "probe":
        shutil.rmtree(context.probe_states, ignore_errors=True)
    return record


def _with_deciding_metric(record: AnyRecord, path: Path, benchmark: BenchmarkConfig) -> AnyRecord:
    """The record with the metric and unit that the benchmark names now: they decide nothing about the predictions."""
    current: dict[str, Any] = {"decides": benchmark.decides}
    if isinstance(record, ProbeRecord):
        current["target"] = benchmark.target
    if {name: getattr(record, name) for name in current} == current:
        return record
    return rewrite_record(path, record.model_copy(update=current))


def kept_steps(folder: Path, every: int) -> list[int]:
    """Steps of the checkpoints that a run has at multiples of ``every``, equal on all processes. Collective."""
    own = [step for step in open_run(folder).checkpoint_steps() if step and step % every == 0]
    found: list[int] = GlooGroup(COLLECTIVE_TIMEOUT).gather_objects(own)[0]
    return found


def has_launcher() -> bool:
    """Whether torchrun or srun started this process as one of several. Raises InputError like ``process_group``."""
    set_ranks_from_slurm()
    return bool({"RANK", "WORLD_SIZE"} & os.environ.keys())


@contextmanager
def process_group(folder: Path) -> Iterator[None]:
    """A gloo process group for the duration of the block if torchrun or srun started several processes; else none.

    ``folder``: the run, where the tasks of a Slurm step meet.
    Gloo suffices: processes exchange only file names and labels. All processes leave the block together, because srun
    ends a step soon after its first process, and the others finish while the first still trains probes.
    Raises InputError if the launcher's variables are incomplete, HpcJepaError if another process has exited.
    """
    if not has_launcher():
        yield
        return
    check_launcher_variables()
    init_from_launcher("gloo", COLLECTIVE_TIMEOUT, open_run(folder).path)
    try:
        with report_lost_peers():
            yield
            dist.barrier()
    finally:
        dist.destroy_process_group()


def _metadata(context: EvaluationContext, task: Task) -> dict[str, Any]:
    """All fields of a record but its results, external encoders and predictions."""
    benchmark, config = context.benchmark, context.config
    return {
        "run": RunIdentity.of(context.run.config, context.checkpoint.step),
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "classes": benchmark.classes,
        "protocol": context.protocol,
        "protocol_fingerprint": config.fingerprint(task),
        "data": {"train": _data_hash(config.train, benchmark), "test": _data_hash(config.test, benchmark)},
        "software": {
            "commit": code_revision(),
            "python": platform.python_version(),
            **{name: version(name) for name in SOFTWARE_PACKAGES},
        },
        "decides": benchmark.decides,
        **({"target": benchmark.target} if task == "probe" else {}),
    }


def _data_hash(shards: Path, benchmark: BenchmarkConfig) -> str:
    if benchmark.build and not (shards / MANIFEST_NAME).is_file():
        raise DataError(f"{shards}: shards of {benchmark.title} not found; build them with: {benchmark.build}")
    read_manifest(shards)
    return manifest_hash(shards)


def _is_current(old: AnyRecord, metadata: dict[str, Any], context: EvaluationContext, task: Task) -> bool:
    """Whether a record is of this checkpoint, protocol and data; fingerprints of older releases are accepted."""
    run: RunIdentity = metadata["run"]
    return (
        old.run.model_copy(update={"fingerprint": run.fingerprint}) == run
        and old.run.fingerprint in context.run.config.known_fingerprints()
        and old.protocol_fingerprint in context.config.known_fingerprints(task)
        and old.data == metadata["data"]
        and (not isinstance(old, ProbeRecord) or _key(old.target) == _key(context.benchmark.target))
    )


def _key(target: TargetConfig | None) -> str | None:
    return None if target is None else target.key
