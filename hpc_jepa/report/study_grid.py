"""Result grids of a study: pretraining seeds are blocks, test clips are paired."""

from collections.abc import Sequence

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
from hpc_jepa.report.row_names import RowNames
from hpc_jepa.report.run_report import RunReport


def study_grids(scores: StudyScores, runs: Sequence[RunReport]) -> list[ResultGrid]:
    """One grid per regime, with a row for every variant. Holm's family is what the study asks: all variants against
    their baseline in the deciding column of each benchmark, over all regimes.
    """
    return adjust_p_values([_grid(scores, regime, runs) for regime in scores.regimes])


def _grid(study: StudyScores, regime: str, runs: Sequence[RunReport]) -> ResultGrid:
    columns = study.in_regime(regime)
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
