"""Preflight checks of a study: configuration, trackers, run folders, shards, batch size and memory of the GPUs."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from hpc_jepa.checkpoint.branch_point import origin_checkpoint, origin_run, refuse_other_architecture
from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.config.loading import nearest_or_all
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.data.storage import parse_location
from hpc_jepa.distributed import local_rows
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.evaluation.class_names import refuse_other_classes
from hpc_jepa.evaluation.probes.probe_registry import validate_probes
from hpc_jepa.evaluation.tasks.robustness import robustness_probes
from hpc_jepa.evaluation.tasks.text import require_captions, require_sentence_encoder
from hpc_jepa.objectives.registry import validate_objectives
from hpc_jepa.runs.acquire import refuse_other_config
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.cell import CellEvaluation, StudyCell
from hpc_jepa.study.gpu_memory import GIB, memory_plan, poolers_bytes
from hpc_jepa.study.status import OTHER_SETTINGS, is_only_evaluated, missing_result, status_or_damaged
from hpc_jepa.trackers.clients import require_trackers


def preflight_errors(cells: Iterable[StudyCell], cluster: ClusterConfig | None = None) -> dict[Path, str]:
    """Run folders of cells that cannot run, each with a one-line reason."""
    errors: dict[Path, str] = {}
    shards_error, captions_error, classes_error = cache(_shards_error), cache(_captions_error), cache(_classes_error)
    cells = list(cells)
    by_folder = {cell.folder: cell for cell in cells}
    for cell in cells:
        trains = not is_only_evaluated(cell)
        shards = [str(source.shards) for source in cell.config.data.sources.values()] if trains else []
        for evaluation in cell.evaluations:
            protocol = evaluation.benchmark.protocols[evaluation.protocol]
            shards += [str(protocol.train), str(protocol.test)]
        reason = _cell_error(cell, cluster) or next(filter(None, map(shards_error, shards)), None)
        reason = reason or _other_classes(cell, classes_error) or _without_captions(cell, captions_error)
        if cell.after is not None and cell.after in by_folder:
            reason = reason or _phase_error(cell, by_folder[cell.after], errors.get(cell.after))
        if reason:
            errors[cell.folder] = reason
    return errors


def group_by_reason(errors: dict[Path, str]) -> list[tuple[str, Sequence[Path]]]:
    """Each reason once, with its run folders."""
    reasons: dict[str, list[Path]] = {}
    for folder, reason in errors.items():
        reasons.setdefault(reason, []).append(folder)
    return list(reasons.items())


def _phase_error(cell: StudyCell, before: StudyCell, reason: str | None) -> str | None:
    """Why a cell cannot begin after another one, which cannot run for ``reason``."""
    try:
        if reason and cell.waits:
            return f"begins after {before.folder}, which cannot run: {reason}"
        refuse_other_architecture(cell.config, before.config, str(before.folder))
    except HpcJepaError as error:
        return str(error)
    return None


def _cell_error(cell: StudyCell, cluster: ClusterConfig | None) -> str | None:
    try:
        for evaluation in cell.evaluations:
            validate_probes(evaluation.benchmark, evaluation.protocol)
            _check_task(evaluation)
        cell.run.refuse_links_outside()
        if cell.reused:
            _refuse_other_records(cell)
        else:
            _check_best(cell)
        if not is_only_evaluated(cell):
            _check_training(cell, cluster)
        if cluster is not None:
            _check_poolers(cell, cluster)
    except HpcJepaError as error:
        return _without_beginning(cell, str(error))
    status = status_or_damaged(cell)
    return status.note if status.state == "damaged" else None


def _check_training(cell: StudyCell, cluster: ClusterConfig | None) -> None:
    """Raise HpcJepaError if the run cannot be trained."""
    validate_objectives(cell.config)
    require_trackers(cell.config.monitor)
    refuse_other_config(cell.config)
    if not cell.waits:
        _check_origin(cell.config)
    if cluster is not None:
        engine = cell.config.engine
        local_rows(engine.batch_size, 0, cluster.train.processes, engine.accumulation)
        _check_memory(cell, cluster)


def _refuse_other_records(cell: StudyCell) -> None:
    """Raise InputError if a run of another study has a record of other settings, which that study may need."""
    for evaluation in cell.evaluations:
        if missing_result(cell, evaluation) == OTHER_SETTINGS:
            record = evaluation.record_file(cell.run, evaluation.step)
            raise InputError(
                f"{evaluation.where}: {record} has other settings, and is of a run of {cell.reused_from}; make them "
                f"equal, remove {cell.reused_from} from reuse, or delete the record"
            )


def _check_task(evaluation: CellEvaluation) -> None:
    """Raise InputError, with the key in the study, if a protocol or this installation cannot serve its task."""
    try:
        if evaluation.task == "robustness":
            robustness_probes(evaluation.benchmark, evaluation.protocol)
        elif evaluation.task == "text":
            require_sentence_encoder()
    except InputError as error:
        raise InputError(f"{evaluation.where}: {error}") from error


def _other_classes(cell: StudyCell, classes_error: Callable[[Path, Path, int], str | None]) -> str | None:
    """Why the classes of an evaluation are not those of its shards, with its key in the study; None if all are."""
    for evaluation in cell.evaluations:
        protocol, classes = evaluation.benchmark.protocols[evaluation.protocol], evaluation.benchmark.classes
        if classes and (error := classes_error(protocol.train, protocol.test, classes)):
            return f"{evaluation.where}: {evaluation.file}: {error}"
    return None


def _without_captions(cell: StudyCell, captions_error: Callable[[Path], str | None]) -> str | None:
    """Why an evaluation of task text cannot be served, with its key in the study; None if all can be."""
    for evaluation in cell.evaluations:
        if evaluation.task == "text":
            protocol = evaluation.benchmark.protocols[evaluation.protocol]
            for folder in (protocol.train, protocol.test):
                if error := captions_error(folder):
                    return f"{evaluation.where}: {error}"
    return None


def _without_beginning(cell: StudyCell, reason: str) -> str:
    """The reason without the override that begins a phase: in no file, and different for each seed."""
    begins = next((word for word in reversed(cell.arguments) if word.startswith("init=")), "")
    return reason.replace(f"override {begins}: ", "") if cell.after is not None and begins else reason


def _check_best(cell: StudyCell) -> None:
    """Raise InputError if no evaluation writes the records that decide which checkpoints are kept."""
    best = cell.config.checkpoint.best_evaluated
    if best is None:
        return
    assert best.every is not None, "see CheckpointConfig.best_evaluated"
    where = cell.config.locations.prefix(("checkpoint", "keep_best"))
    probed = [each for each in cell.evaluations if each.task == "probe"]
    own = [each for each in probed if (each.benchmark.name, each.protocol) == (best.benchmark, best.protocol)]
    if not any(each.every is not None and best.every % each.every == 0 for each in own):
        raise InputError(
            f"{where}checkpoint.keep_best: no evaluation of the study writes records of {best.benchmark}, "
            f"{best.protocol} every {best.every:,} steps, so all these checkpoints would be kept; set every: "
            f"{best.every} of it in evaluations"
        )
    probes = own[0].benchmark.protocols[best.protocol].probes
    if best.probe not in probes:
        raise InputError(
            f"{where}checkpoint.keep_best.probe: {best.benchmark} has no probe '{best.probe}'"
            f"{nearest_or_all(best.probe, probes)}"
        )


def _check_origin(config: RunConfig) -> None:
    """Raise InputError or CheckpointError if a run that has not begun cannot begin as ``init`` says.

    The content of a released file is checked when the run starts, and by ``checkpoint check``.
    """
    if config.init is None or RunDir(config.folder).checkpoint_dirs():
        return
    if config.init.run is not None:
        origin_checkpoint(config, origin_run(config))
    elif config.init.file is not None and not config.init.file.is_file():
        raise InputError(f"{config.locations.prefix(('init', 'file'))}init.file: {config.init.file}: no such file")


def _check_memory(cell: StudyCell, cluster: ClusterConfig) -> None:
    if cluster.gpu_memory_gib is None:
        return
    train = cluster.train
    needed = memory_plan(cell.config, train.processes).total / GIB * train.cells_per_gpu
    if needed > cluster.gpu_memory_gib:
        cells = f" for {train.cells_per_gpu} cells (train.cells_per_gpu)" if train.cells_per_gpu > 1 else ""
        more = "train.nodes, train.gpus_per_node" if train.cells_per_job == 1 else "train.gpus_per_cell"
        raise InputError(
            f"needs about {needed:.0f} GiB per GPU{cells}, but the cluster has {cluster.gpu_memory_gib:g}; use more "
            f"GPUs ({more}), a higher engine.zero_stage or engine.accumulation, or model.activation_checkpointing=true"
        )


def _check_poolers(cell: StudyCell, cluster: ClusterConfig) -> None:
    if cluster.gpu_memory_gib is None:
        return
    for name, size in poolers_bytes(cell).items():
        if size / GIB > cluster.gpu_memory_gib:
            raise InputError(
                f"{name}: its candidates need {size / GIB:.0f} GiB per GPU, but the cluster has "
                f"{cluster.gpu_memory_gib:g}; set fewer of lr, weight_decay or probe_seeds"
            )


def _classes_error(train: Path, test: Path, classes: int) -> str | None:
    try:
        refuse_other_classes(train, test, classes)
    except HpcJepaError as error:
        return str(error)
    return None


def _captions_error(folder: Path) -> str | None:
    try:
        require_captions(folder)
    except HpcJepaError as error:
        return str(error)
    return None


def _shards_error(folder: str) -> str | None:
    try:
        read_manifest(parse_location(folder))
    except HpcJepaError as error:
        return str(error)
    return None
