"""Runs of a study as evidence for claims, with the statistics of the study's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpc_jepa.evaluation.stats.blocked import SeedScores, compare_with_reference
from hpc_jepa.report.claims import ClaimCell
from hpc_jepa.report.comparisons import (
    SEMANTICS,
    ColumnScores,
    RowName,
    StudyScores,
    label,
    make_contrast,
    mean_value,
    row_name,
)
from hpc_jepa.report.result_grid import Contrast, ResultGrid
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.verdicts import Interval

BENCHMARKS = {"synth_motion8": "motion8", "ucf101_full": "ucf101"}
"""Published names of benchmarks that differ from those in ``configs/benchmark/``."""


@dataclass(frozen=True)
class StudyEvidence:
    """Runs of one study under one semantics as evidence for claims: target weights, deciding columns.

    A variant includes all its seeds. Only in a claim that compares a variant with itself, ``<variant>_seed<N>`` is that
    seed and ``<variant>`` is the published seed.
    """

    semantics: str
    scores: StudyScores
    grids: Mapping[str, ResultGrid]
    constants: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the source in the report."""
        return f"{self.scores.study}, {self.semantics} semantics"

    def score(self, cell: ClaimCell) -> Interval | None:
        """Accuracy over all seeds, in percent."""
        column, seeds = self._column(cell), self._seeds(cell)
        if column is None or seeds is None:
            return None
        return Interval(*mean_value(seeds, column), one_seed=len(seeds) == 1)

    def difference(self, minuend: ClaimCell, subtrahend: ClaimCell) -> Interval | None:
        """Difference in points: that of the grid where the grid has it, otherwise judged in the same way with the
        minuend as reference.
        """
        column, ours, theirs = self._column(minuend), self._seeds(minuend), self._seeds(subtrahend)
        if column is None or ours is None or theirs is None:
            return None
        first, second = self._row(minuend), self._row(subtrahend)
        if first == second:
            return self._between_seeds(column, minuend, subtrahend)
        if column is not self._column(subtrahend):  # of two regimes
            return _of_contrast(_alone(column, ours, theirs))
        for row, reference, sign in ((first, second, 1), (second, first, -1)):
            cell = self.grids[minuend.regime].cell(label(row), str(column.column))
            if cell is not None and cell.contrast is not None and cell.contrast.reference == label(reference):
                return _of_contrast(cell.contrast, sign)
        return _of_contrast(make_contrast(label(first), column.against(first)[second], column.metric), -1)

    def constant(self, name: str) -> Any:
        """A constant that is equal in all runs, None if it is not."""
        return self.constants.get(name)

    def _column(self, cell: ClaimCell) -> ColumnScores | None:
        column = self.scores.deciding.get(BENCHMARKS.get(cell.benchmark, cell.benchmark))
        return None if column is None else self.scores.columns.get((cell.regime, column))

    def _row(self, cell: ClaimCell) -> RowName:
        return cell.unseeded, self.semantics

    def _seeds(self, cell: ClaimCell) -> SeedScores | None:
        column = self._column(cell)
        return None if column is None else column.scores.get(self._row(cell))

    def _between_seeds(self, column: ColumnScores, first: ClaimCell, second: ClaimCell) -> Interval | None:
        """Two seeds of one variant: the claim is about these runs, so the clips decide."""
        seeds = column.scores[self._row(first)]
        if first.seed not in seeds or second.seed not in seeds:
            return None
        ours, theirs = ({0: seeds[cell.seed]} for cell in (first, second))
        contrast = _alone(column, ours, theirs)
        return Interval(contrast.points, contrast.low, contrast.high)


def collect_evidence(
    scores: StudyScores, grids: Sequence[ResultGrid], runs: Sequence[RunReport]
) -> list[StudyEvidence]:
    """Evidence per semantics, corrected first. ``grids``: those of the study."""
    evidence = []
    for semantics in SEMANTICS:
        own = [run.config for run in runs if run.config.study == scores.study and row_name(run.config)[1] == semantics]
        widths = {config.model.encoder.width for config in own}
        constants = {"encoder_width": widths.pop()} if len(widths) == 1 else {}
        if own:
            evidence.append(StudyEvidence(semantics, scores, {grid.regime: grid for grid in grids}, constants))
    return evidence


def _alone(column: ColumnScores, first: SeedScores, second: SeedScores) -> Contrast:
    found = compare_with_reference({"": first}, second, column.clusters, column.metric.scale)
    return make_contrast("", found[""], column.metric)


def _of_contrast(contrast: Contrast, sign: int = 1) -> Interval:
    """The difference with its simultaneous interval, significant as in the grid."""
    low, high = contrast.bounds
    judged = contrast.adjusted is not None or contrast.decision is not None
    significant = contrast.significant if judged else not low <= 0 <= high
    interval = Interval(contrast.points, low, high, contrast.one_seed, significant)
    return interval if sign > 0 else -interval
