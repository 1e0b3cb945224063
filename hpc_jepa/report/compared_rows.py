"""Which results are of encoders that a study was to compare: those that may be called its best."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.results import ResultRow
from hpc_jepa.report.row_names import RowNames, names_of
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.study.grid_cells import grid_cells

Encoder = tuple[str, str, str]
"""Regime, variant and semantics."""


def compared_rows(
    rows: Iterable[ResultRow], runs: Sequence[RunReport], names: Mapping[str, RowNames]
) -> set[ResultRow]:
    """Those of the rows that are of target weights of a variant in ``study.yaml``, of several phases of the last one.

    All variants of a study without a sound ``study.yaml``. Untrained and external encoders, student weights and runs
    that the study does not list are shown beside.
    """
    planned = {run.config.study: _planned(run.study.config_file) for run in _one_per_study(runs)}
    return {
        row
        for row in rows
        if row.weights == "target"
        and _is_last_phase(row, names_of(names, row.study))
        and ((listed := planned.get(row.study)) is None or (row.regime, row.variant, row.semantics) in listed)
    }


def _one_per_study(runs: Iterable[RunReport]) -> Collection[RunReport]:
    return {run.config.study: run for run in runs}.values()


def _planned(file: Path) -> set[Encoder] | None:
    """The encoders of all cells of a ``study.yaml``; None if it is not sound, which a report names among the gaps."""
    if not file.is_file():
        return None
    try:
        cells = grid_cells(read_config(StudyConfig, [file]), file.parent.parent)
    except InputError:
        return None
    return {(cell.config.regime, cell.config.variant, cell.config.semantics_name) for cell in cells}


def _is_last_phase(row: ResultRow, names: RowNames) -> bool:
    return not names.phases or names.phase(row.variant) == names.phases[-1]
