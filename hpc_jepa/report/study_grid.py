"""Result grids of a study: pretraining seeds are blocks, test clips are paired."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpc_jepa.config.benchmark import Task
from hpc_jepa.evaluation.conditions import MEAN
from hpc_jepa.evaluation.tasks.robustness import CLEAN
from hpc_jepa.report.comparisons import (
    SEMANTICS,
    UNTRAINED,
    ColumnScores,
    RowName,
    StudyScores,
    label,
    mean_value,
    row_name,
    row_order,
)
from hpc_jepa.report.result_grid import ACCURACY, CellKey, ResultCell, ResultGrid, adjust_p_values
from hpc_jepa.report.results import ResultColumn
from hpc_jepa.report.row_names import RowNames
from hpc_jepa.report.run_report import RunReport


def study_grids(scores: StudyScores, runs: Sequence[RunReport]) -> list[ResultGrid]:
    """One grid per regime, with a row for every variant. Holm's family is what the study asks: all variants against
    their baseline in the deciding column of each benchmark, over all regimes.
    """
    columns = {regime: scores.in_regime(regime) for regime in scores.regimes}
    return adjust_p_values([_grid(scores, regime, runs, found) for regime, found in columns.items() if found])


def task_grids(scores: StudyScores, runs: Sequence[RunReport]) -> list[ResultGrid]:
    """Grids of the tasks beside probes: by regime, benchmark, protocol and what belongs together, with the first probe.

    Each task has a Holm's family of its own: all variants against their baseline in the columns that the study asks.
    """
    found: list[ResultGrid] = []
    for task in TASK_TITLES:
        grids = []
        for regime in scores.regimes:
            for part, columns in _parts(scores.in_regime(regime, task)).items():
                grid = _grid(scores, regime, runs, columns)
                headings = {str(column): _heading(column) for column in columns}
                grids.append(replace(grid, task=task, part=f"{TASK_TITLES[task]}, {part}", headings=headings))
        found += adjust_p_values(grids)
    return found


def without_verdicts(grid: ResultGrid) -> ResultGrid:
    """The grid of a sequential study, whose rule is about its probes: no difference is judged."""
    cells = {
        key: replace(cell, contrast=replace(cell.contrast, asked=False, adjusted=None)) if cell.contrast else cell
        for key, cell in grid.cells.items()
    }
    return replace(grid, cells=cells, family=0)


TASK_TITLES: dict[Task, str] = {"few_shot": "few-shot accuracy", "robustness": "robustness", "text": "text alignment"}


def _parts(columns: Mapping[ResultColumn, ColumnScores]) -> dict[str, dict[ResultColumn, ColumnScores]]:
    """Columns by the title of the grid that they are in, without the probes beside the first one."""
    first: dict[tuple[str, str], str] = {}
    for column in columns:
        first.setdefault((column.benchmark, column.protocol), column.probe)
    parts: dict[str, dict[ResultColumn, ColumnScores]] = {}
    for column, scores in sorted(columns.items(), key=lambda item: item[0].condition != MEAN):
        if column.probe == first[column.benchmark, column.protocol]:
            parts.setdefault(_part(column), {})[column] = scores
    return parts


def _part(column: ResultColumn) -> str:
    about = [column.benchmark, column.protocol, column.probe.replace("_", " ")]
    if column.task == "text":
        direction, _, lost = column.condition.split(", ")
        about += [direction.replace("_", " "), *([] if column.metric == "top1" else [column.metric])]
        about += [] if lost == "random" else [f"{lost} frames dropped"]
    elif column.task == "robustness" and column.condition not in (CLEAN, MEAN):
        about.append(column.condition.partition(",")[0].replace("_", " "))
    return ", ".join(filter(None, about))


def _heading(column: ResultColumn) -> str:
    """What distinguishes a column from the others of its grid."""
    if column.condition in (CLEAN, MEAN):
        return column.condition
    return column.condition if column.task == "few_shot" else column.condition.split(", ")[1]


def _grid(
    study: StudyScores, regime: str, runs: Sequence[RunReport], columns: Mapping[ResultColumn, ColumnScores]
) -> ResultGrid:
    names = {row for scores in columns.values() for row in scores.scores}
    own = [run.config for run in runs if (run.config.study, run.config.regime) == (study.study, regime)]
    names |= {row_name(config) for config in own}
    cells: dict[CellKey, ResultCell] = {
        (label(row), str(column)): _cell(study, regime, row, scores)
        for column, scores in columns.items()
        for row in scores.scores
    }
    rows = tuple(label(row) for row in sorted(names, key=lambda row: row_order(row, study.names)))
    reference = _main_reference(names, study.names)
    metrics = {str(column): scores.metric for column, scores in columns.items() if scores.metric != ACCURACY}
    name = label(reference) if reference else ""
    return ResultGrid(study.study, regime, rows, tuple(map(str, columns)), cells, name, metrics=metrics)


def _main_reference(rows: set[RowName], names: RowNames) -> RowName | None:
    """The baseline that most rows are compared with: of the last phase; corrected, else published, else with other
    switches.
    """
    baselines = [row for row in rows if row[1] != UNTRAINED and names.reference(row[0]) is None]
    return min(baselines, key=lambda row: (names.order(row[0]), row[1] not in SEMANTICS, row[1]), default=None)


def _cell(study: StudyScores, regime: str, row: RowName, scores: ColumnScores) -> ResultCell:
    seeds = scores.scores[row]
    reference = scores.reference_of(row)
    return ResultCell(
        *mean_value(seeds, scores),
        n=len(next(iter(seeds.values()))),
        seeds=len(seeds),
        contrast=study.contrast(regime, row, reference, scores.column) if reference else None,
        clusters=None if scores.clusters is None else len(set(scores.clusters.tolist())),
        percent=scores.metric.factor == 100,
    )
