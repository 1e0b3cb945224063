"""Result grids of a study: pretraining seeds are blocks, test clips are paired."""

from collections.abc import Sequence

from hpc_jepa.report.comparisons import (
    BASELINE,
    SEMANTICS,
    ColumnScores,
    RowName,
    StudyScores,
    label,
    mean_percent,
    row_name,
    row_order,
)
from hpc_jepa.report.result_grid import CellKey, ResultCell, ResultGrid, adjust_p_values
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
    rows = tuple(label(row) for row in sorted(names, key=row_order))
    reference = _main_reference(names)
    return ResultGrid(study.study, regime, rows, tuple(map(str, columns)), cells, label(reference) if reference else "")


def _main_reference(names: set[RowName]) -> RowName | None:
    """The baseline that most rows are compared with: corrected, else published, else with other switches."""
    baselines = [name for name in names if name[0] == BASELINE]
    return min(baselines, key=lambda name: (name[1] not in SEMANTICS, name[1]), default=None)


def _cell(study: StudyScores, regime: str, row: RowName, scores: ColumnScores) -> ResultCell:
    seeds = scores.scores[row]
    reference = scores.reference_of(row)
    return ResultCell(
        *mean_percent(seeds, scores.clusters),
        n=len(next(iter(seeds.values()))),
        seeds=len(seeds),
        contrast=study.contrast(regime, row, reference, scores.column) if reference else None,
        clusters=None if scores.clusters is None else len(set(scores.clusters.tolist())),
    )
