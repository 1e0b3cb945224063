"""Expand a study into its cells."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpc_jepa.config.loading import dump_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import CellEvaluation, StudyCell
from hpc_jepa.study.cell_evaluations import (
    check_deciding_probes,
    check_outcome,
    deciding_evaluations,
    study_evaluations,
)
from hpc_jepa.study.grid_cells import grid_cells
from hpc_jepa.study.reuse import reuse_runs


def expand_study(study: StudyConfig, runs: Path) -> list[StudyCell]:
    """All cells of the grid, with runs of other studies where it reuses them.

    Raises InputError for an unknown regime, variant, benchmark or setting, if two cells would share a folder, and if a
    run to reuse has other settings.
    """
    cells = grid_cells(study, runs)
    evaluations = study_evaluations(study)
    check_outcome(study, evaluations)
    check_deciding_probes(study, evaluations)
    evaluated = [_selecting(study, cell) for cell in _with_evaluations(cells, evaluations)]
    return reuse_runs(study, evaluated, runs)


def _selecting(study: StudyConfig, cell: StudyCell) -> StudyCell:
    """A cell of the looks stops after their prefix, and is evaluated there on what decides.

    Raises InputError if the run is not longer than the prefix.
    """
    rule, confirmation = study.sequential, study.confirmation
    if rule is None or rule.prefix is None or confirmation is None or cell.config.seed in confirmation.seeds:
        return cell
    if rule.prefix >= cell.config.schedule.steps:
        raise InputError(
            f"sequential.prefix: {rule.prefix:,} steps, but {cell.arm} has {cell.config.schedule.steps:,}; use fewer"
        )
    deciding = deciding_evaluations(cell.evaluations, rule.decides or study.probed[:1])
    evaluations = tuple(replace(each, weights=("target",), every=None, step=rule.prefix) for each in deciding)
    return replace(cell, evaluations=evaluations, until=rule.prefix)


def create_study_dir(study: StudyConfig, runs: Path) -> StudyDir:
    """Create ``RUNS/<study>`` and write its ``study.yaml``, from which a report lists missing cells.

    Raises InputError if a folder in it is a link that leads out of it.
    """
    folder = StudyDir(runs / study.study)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.refuse_links_outside()
    write_atomically(folder.config_file, dump_config(study).encode())
    return folder


def _with_evaluations(cells: Sequence[StudyCell], evaluations: Sequence[CellEvaluation]) -> list[StudyCell]:
    """Add evaluations to cells. All runs of a regime and seed start from the same random encoder, so only the first one
    evaluates it.
    """
    without_random = tuple(_without_random(evaluation) for evaluation in evaluations)
    evaluated, seen = [], set()
    for cell in cells:
        start = (cell.config.regime, cell.config.seed)
        evaluated.append(replace(cell, evaluations=without_random if start in seen else tuple(evaluations)))
        seen.add(start)
    return evaluated


def _without_random(evaluation: CellEvaluation) -> CellEvaluation:
    trained = tuple(name for name in evaluation.weights if name != "random_init")
    return replace(evaluation, weights=trained or evaluation.weights)
