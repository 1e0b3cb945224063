"""Runs of other studies that a study uses instead of training its own.

A run is found by its regime, the folder name of its variant and its seed, in the grids of the studies that ``reuse``
lists and, through them, of those that they list. It stays in the folder of its study, with the configuration of that
study, whichever study trains it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpc_jepa.config.loading import did_you_mean, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.flatten import flatten
from hpc_jepa.io.resources import list_resources
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import CellEvaluation, CellKey, StudyCell
from hpc_jepa.study.cell_evaluations import study_evaluations
from hpc_jepa.study.grid_cells import grid_cells
from hpc_jepa.study.job_log import JobLog

KEPT_CHECKPOINTS = ("every", "keep_every", "keep_best", "best_by", "best_is")
"""Keys of ``checkpoint`` that decide which checkpoints an evaluation with ``every`` finds."""


@dataclass(frozen=True)
class OtherStudy:
    """A study below RUNS, and its runs. ``where``: file, line and key of the entry that leads to it, for messages."""

    config: StudyConfig
    where: str
    runs: Mapping[CellKey, StudyCell]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.study


def reuse_runs(study: StudyConfig, cells: Sequence[StudyCell], runs: Path) -> list[StudyCell]:
    """The cells of a study, those of which another study has the run with that run.

    A run that has begun, or that a job was submitted for, is preferred, first of all one in the folder of this study.
    Otherwise it is that of the first study that is listed, or of the one which that study takes it from: so all studies
    choose the same, and whichever is submitted first trains it.

    Raises InputError, with file, line and key, for a name that is no study, and if the chosen run has other settings.
    """
    others = list(_other_studies(study, runs, {study.study}))
    if not others:
        return list(cells)
    names = (study.study, *(other.name for other in others))
    submitted = {folder for name in names for folder in _submitted(StudyDir(runs / name))}
    found = [_choose(cell, others, submitted) for cell in cells]
    _refuse_other_records(cells, {other.name: other for _, other in found if other is not None})
    return [cell for cell, _ in found]


def absent_studies(study: StudyConfig, runs: Path) -> list[str]:
    """Names in ``reuse`` that were not submitted yet, so that there is nothing to reuse of them."""
    return [name for name in study.reuse if not StudyDir(runs / name).config_file.is_file()]


def _other_studies(study: StudyConfig, runs: Path, seen: set[str], where: str = "") -> Iterator[OtherStudy]:
    """The listed studies that were submitted, each after those that it reuses itself, and each once."""
    for index, name in enumerate(study.reuse):
        if name in seen:
            continue
        seen.add(name)
        place = where or f"{study.locations.prefix(('reuse', str(index)))}reuse.{index}"
        file = StudyDir(runs / name).config_file
        if not file.is_file():
            _refuse_unknown(name, file, where or place, is_listed=not where)
            continue
        try:
            other = read_config(StudyConfig, [file])
            own = grid_cells(other, runs)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        if other.study != name:
            raise InputError(f"{place}: {file} is of study {other.study}; rename one of them, or remove it here")
        if other.sequential is not None and other.sequential.prefix is not None:
            raise InputError(
                f"{place}: {name} trains its runs for a prefix of their steps (sequential.prefix), and only whole runs "
                "can be reused; remove it here"
            )
        yield from _other_studies(other, runs, seen, place)
        yield OtherStudy(other, place, {cell.key: cell for cell in own if cell.after is None})


def _refuse_unknown(name: str, file: Path, where: str, is_listed: bool) -> None:
    """Raise InputError unless a study that was not submitted has a file in ``configs/study/``: it may come later."""
    known = list_resources("configs/study")
    if is_listed and name not in known:
        submitted = [path.parent.name for path in file.parents[1].glob(f"*/{file.name}")]
        raise InputError(
            f"{where}: no study '{name}'{did_you_mean(name, [*submitted, *known])}: there is no {file}; submit that "
            "study first, or remove it here"
        )


def _submitted(study: StudyDir) -> set[Path]:
    """Run folders that the jobs of a study train, or have trained."""
    jobs, _ = JobLog(study).sound_jobs()
    return {job.folder for job in jobs if job.kind == "train"}


def _choose(
    cell: StudyCell, others: Sequence[OtherStudy], submitted: Collection[Path]
) -> tuple[StudyCell, OtherStudy | None]:
    """A cell with the run that it uses, and the study that the run belongs to, None for its own."""
    candidates = [(other, other.runs[cell.key]) for other in others if cell.key in other.runs]
    if not candidates or _has_begun(cell, submitted):
        return cell, None
    begun = (each for each in candidates if _has_begun(each[1], submitted))
    other, run = next(begun, candidates[0])
    _refuse_other_settings(cell, run, other)
    evaluations = tuple(replace(each, names_metric=False) for each in cell.evaluations)
    return replace(run, evaluations=evaluations, reused=True), other


def _has_begun(cell: StudyCell, submitted: Collection[Path]) -> bool:
    return cell.folder in submitted or cell.run.is_run


def _refuse_other_settings(cell: StudyCell, run: StudyCell, other: OtherStudy) -> None:
    """Raise InputError naming the first setting in which the run, or the grid of its study, differs from a cell."""
    with_steps = any(each.every is not None for each in cell.evaluations)
    own = _settings(cell.config, with_steps)
    for config in (run.config, _trained(run)):
        found = _settings(config, with_steps)
        differing = sorted(key for key in own.keys() | found.keys() if own.get(key) != found.get(key))
        if differing:
            key = differing[0]
            raise InputError(
                f"{other.where}: {run.folder} has other settings: {key} is {found.get(key)} there and {own.get(key)} "
                f"here{_more(differing)}; make them equal, set name: of the variant here, or remove {other.name} from "
                "reuse"
            )


def _more(differing: Sequence[str]) -> str:
    return f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""


def _trained(run: StudyCell) -> RunConfig:
    """The configuration that a run with a checkpoint was trained with, else that of the grid.

    So also of a damaged run, whose damage its own status names.
    """
    try:
        return run.run.config if run.run.checkpoint_dirs() else run.config
    except HpcJepaError:
        return run.config


def _settings(config: RunConfig, with_steps: bool) -> dict[str, Any]:
    """Settings that decide the outcome of a run, without the study; ``with_steps``: also which checkpoints it keeps."""
    settings = {key: value for key, value in config.outcome_settings().items() if key != "study"}
    kept = config.checkpoint.model_dump(mode="json", include=set(KEPT_CHECKPOINTS)) if with_steps else {}
    return flatten({**settings, "checkpoint": kept})


def _refuse_other_records(cells: Iterable[StudyCell], others: Mapping[str, OtherStudy]) -> None:
    """Raise InputError if another study evaluates its runs with other settings: a run has one record of them."""
    own = {_record(each): each for cell in cells for each in cell.evaluations}
    for other in others.values():
        try:
            theirs = study_evaluations(other.config)
        except InputError as error:
            raise InputError(f"{other.where}: {error}") from error
        for evaluation in theirs:
            mine = own.get(_record(evaluation))
            if mine is not None and not mine.fingerprints & evaluation.fingerprints:
                raise InputError(
                    f"{mine.where}: {other.name} evaluates {mine} with other settings, and a run has one record of it; "
                    f"make them equal, or remove {other.name} from reuse"
                )


def _record(evaluation: CellEvaluation) -> tuple[str, str, str]:
    return evaluation.benchmark.name, evaluation.protocol, evaluation.task
