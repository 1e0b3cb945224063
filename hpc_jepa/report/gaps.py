"""Gaps of a study: cells that never started, unfinished runs, missing evaluations."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hpc_jepa.config import loading
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.report.results import RANDOM, Panel, ResultRow, panel_of
from hpc_jepa.report.run_report import RunReport, run_label
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.looks_file import not_needed, read_looks
from hpc_jepa.study.status import missing_result

TaskKey = tuple[str, str, str]
"""Task, benchmark and protocol of a record."""


def find_gaps(runs: Sequence[RunReport], rows: Sequence[ResultRow]) -> list[str]:
    """One line per gap: cells that never started, unfinished runs, evaluations that only other runs have, further tasks
    that the study lists or other runs have, regimes without an evaluated random encoder.
    """
    whole = [run for run in runs if not _stops_at_prefix(run)]
    grids = _grids(runs)
    return [
        *_never_started(runs, grids),
        *_unfinished(whole),
        *_unevaluated(whole, rows),
        *_without_tasks(whole, grids),
        *_without_random(rows),
    ]


def _grids(runs: Sequence[RunReport]) -> dict[Path, list[StudyCell] | InputError]:
    """Cells of each ``study.yaml``, or why there are none; only for a report on the whole study."""
    files = dict.fromkeys(run.study.config_file for run in runs if run.whole_study)
    return {path: _expanded(path) for path in files if path.is_file()}


def _expanded(path: Path) -> list[StudyCell] | InputError:
    try:
        return expand_study(loading.read_config(StudyConfig, [path]), path.parent.parent)
    except InputError as error:
        return error


def _stops_at_prefix(run: RunReport) -> bool:
    """Whether a run is one of looks at a prefix of the steps, and has done those: it is trained no further."""
    try:
        looks = read_looks(run.study)
    except DataError:  # named among the gaps
        return False
    if looks is None or looks.rule.prefix is None or run.state is None or run.config.seed not in looks.rule.seeds:
        return False
    return run.state.state == "interrupted" and (run.state.step or 0) >= looks.rule.prefix


def _never_started(runs: Sequence[RunReport], grids: Mapping[Path, list[StudyCell] | InputError]) -> list[str]:
    """Cells of ``study.yaml`` without a run folder."""
    started: dict[Path, set[Path]] = {}
    for run in runs:
        started.setdefault(run.study.config_file, set()).add(run.dir.path.resolve())
    return [line for path, cells in grids.items() for line in _absent(path, cells, started[path])]


def _absent(path: Path, cells: list[StudyCell] | InputError, started: set[Path]) -> list[str]:
    if isinstance(cells, InputError):
        return [f"{path}: its grid cannot be expanded ({cells})"]
    try:
        looks = read_looks(StudyDir(path.parent))
    except DataError as error:
        return [str(error)]
    reason = not_needed(looks) if looks else None
    absent = [cell for cell in cells if cell.folder.resolve() not in started]
    needed = [cell.config for cell in absent if reason is None or not reason(cell.arm, cell.config.seed)]
    return [f"{run_label(config)} ({config.regime}): never started" for config in needed]


def _unfinished(runs: Iterable[RunReport]) -> list[str]:
    lines = []
    for run in runs:
        if run.state is None:
            lines.append(f"{run.label}: never started")
        elif run.state.state != "done":
            lines.append(f"{run.label}: {run.state.summary}")
    return lines


def _unevaluated(runs: Iterable[RunReport], rows: Sequence[ResultRow]) -> list[str]:
    trained = [row for row in rows if row.is_trained]
    expected: dict[tuple[str, str], dict[tuple[str, str, str, str], None]] = {}
    for row in trained:
        own = expected.setdefault((row.study, row.regime), {})
        own[row.benchmark, row.protocol, row.weights, row.probe] = None
    lines = []
    for run in runs:
        recorded = {
            (record.benchmark, record.protocol, result.weights, result.probe)
            for record in run.records.values()
            for result in record.results
        }
        lines += [
            f"{run.label}: {record.benchmark}, {record.protocol} was evaluated at step {record.run.step:,} "
            f"of {record.run.steps:,}"
            for record in run.records.values()
            if record.run.step < record.run.steps
        ]
        gaps = [each for each in expected.get((run.config.study, run.config.regime), ()) if each not in recorded]
        lines += [f"{run.label}: not evaluated: {b}, {p}, {weights} weights, {probe}" for b, p, weights, probe in gaps]
    return lines


def _without_tasks(runs: Sequence[RunReport], grids: Mapping[Path, list[StudyCell] | InputError]) -> list[str]:
    """Runs without a further task that the study lists, or that other runs of their regime have."""
    records = [_task_records(run) for run in runs]
    others: dict[tuple[str, str], dict[TaskKey, None]] = {}
    for run, found in zip(runs, records, strict=True):
        others.setdefault((run.config.study, run.config.regime), {}).update(dict.fromkeys(found))
    by_folder = {
        (file, cell.folder.resolve()): cell
        for file, grid in grids.items()
        if not isinstance(grid, InputError)
        for cell in grid
    }
    lines = []
    for run, found in zip(runs, records, strict=True):
        if run.state is None or run.state.state != "done":
            continue  # named as unfinished
        cell = by_folder.get((run.study.config_file, run.dir.path.resolve()))
        listed = _unserved(cell) if cell is not None else {}
        expected = others[run.config.study, run.config.regime]
        absent = {key: "" for key in expected if key not in found}
        for (task, benchmark, protocol), reason in {**absent, **listed}.items():
            shown = f" ({reason})" if reason not in ("", "no record") else ""
            lines.append(f"{run.label}: not evaluated: {benchmark}, {protocol}, {task}{shown}")
    return lines


def _task_records(run: RunReport) -> list[TaskKey]:
    """Further tasks that a run has records of."""
    records = [*run.few_shot.values(), *run.robustness.values(), *run.text.values()]
    return [(record.task, record.benchmark, record.protocol) for record in records]


def _unserved(cell: StudyCell) -> dict[TaskKey, str]:
    """Further tasks of a cell whose record is missing, incomplete or of other settings, and which of these."""
    missing: dict[TaskKey, str] = {}
    for each in cell.evaluations:
        with suppress(DataError):  # a damaged record is named as such
            if each.task != "probe" and (reason := missing_result(cell, each)):
                missing[each.task, each.benchmark.name, each.protocol] = reason
    return missing


def _without_random(rows: Iterable[ResultRow]) -> list[str]:
    by_panel: dict[Panel, set[str]] = {}
    for row in rows:
        by_panel.setdefault(panel_of(row), set()).add(row.weights)
    gaps = [key for key, weights in by_panel.items() if RANDOM not in weights]
    return [f"{RANDOM}: not evaluated: {key.regime}, {key.benchmark}, {key.protocol}, {key.probe}" for key in gaps]
