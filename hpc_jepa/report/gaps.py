"""Cells that the study should hold but does not."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_jepa.config import loading
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.results import RANDOM, Panel, ResultRow, panel_of
from hpc_jepa.report.run_report import RunReport, run_label
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.grid import expand_study


def find_gaps(runs: Sequence[RunReport], rows: Sequence[ResultRow]) -> list[str]:
    """One line per gap: cells of a study that never started, unfinished runs, runs without some evaluation that others
    have, regimes without a random encoder.
    """
    return [*_never_started(runs), *_unfinished(runs), *_unevaluated(runs, rows), *_without_random(rows)]


def _never_started(runs: Sequence[RunReport]) -> list[str]:
    """Cells that ``study.yaml`` lists and no folder holds; of studies that were named, not of single runs."""
    begun = {run.folder.resolve() for run in runs}
    lines = []
    for folder in dict.fromkeys(run.study_folder for run in runs if run.whole_study):
        path = StudyDir(folder).config_file
        if path.is_file():
            lines += _absent(path, begun)
    return lines


def _absent(path: Path, begun: set[Path]) -> list[str]:
    try:
        cells = expand_study(loading.read_config(StudyConfig, [path]), path.parent.parent)
    except InputError as error:
        return [f"{path.parent.name}: the grid cannot be told, because {error}"]
    absent = [cell.config for cell in cells if cell.config.folder.resolve() not in begun]
    return [f"{run_label(config)} ({config.regime}): never started" for config in absent]


def _unfinished(runs: Iterable[RunReport]) -> list[str]:
    lines = []
    for run in runs:
        if run.state is None:
            lines.append(f"{run.label}: never started (no state.json)")
        elif run.state.state != "done":
            lines.append(f"{run.label}: {run.state.summary}")
    return lines


def _unevaluated(runs: Iterable[RunReport], rows: Sequence[ResultRow]) -> list[str]:
    trained = [row for row in rows if row.is_trained]
    wanted = list(dict.fromkeys((row.regime, row.benchmark, row.protocol, row.weights, row.probe) for row in trained))
    lines = []
    for run in runs:
        held = {
            (run.config.regime, record.benchmark, record.protocol, result.weights, result.probe)
            for record in run.records.values()
            for result in record.results
        }
        lines += [
            f"{run.label}: {record.benchmark}, {record.protocol} was evaluated at step {record.run.step:,} "
            f"of {record.run.steps:,}"
            for record in run.records.values()
            if record.run.step < record.run.steps
        ]
        gaps = [cell for cell in wanted if cell[0] == run.config.regime and cell not in held]
        lines += [
            f"{run.label}: not evaluated: {b}, {p}, {weights} weights, {probe}" for _, b, p, weights, probe in gaps
        ]
    return lines


def _without_random(rows: Iterable[ResultRow]) -> list[str]:
    by_panel: dict[Panel, set[str]] = {}
    for row in rows:
        by_panel.setdefault(panel_of(row), set()).add(row.weights)
    gaps = [key for key, weights in by_panel.items() if RANDOM not in weights]
    return [f"{RANDOM}: not evaluated: {key.regime}, {key.benchmark}, {key.protocol}, {key.probe}" for key in gaps]
