"""Which rows of a study are baselines and phases, by their names, as its ``study.yaml`` says."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.study.row_names import BASELINE, RowNames, row_names

__all__ = ["BASELINE", "RowNames", "names_of", "read_row_names"]


def read_row_names(runs: Sequence[RunReport]) -> dict[str, RowNames]:
    """Row names of each study: the default without a sound ``study.yaml`` beside its runs."""
    files: dict[str, list[Path]] = {}
    for run in runs:
        files.setdefault(run.config.study, []).append(run.study.config_file)
    return {study: _from_files(dict.fromkeys(paths)) for study, paths in files.items()}


def names_of(names: Mapping[str, RowNames], study: str) -> RowNames:
    """The row names of a study, the default if they are unknown."""
    return names.get(study, RowNames())


def _from_files(paths: Iterable[Path]) -> RowNames:
    for path in paths:
        if path.is_file():
            try:
                study = read_config(StudyConfig, [path])
            except InputError:  # a report on the whole study names it among the gaps
                continue
            return row_names(study)
    return RowNames()
