"""Runs of a study as evidence for claims, with the statistics of the study's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpc_jepa.config.run import RunConfig
from hpc_jepa.evaluation.stats.blocked import SeedScores, compare_with_reference
from hpc_jepa.evaluation.stats.joint import BenchmarkScores, joint_means
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
from hpc_jepa.report.evidence import Interval, JointValues, Limit, listing
from hpc_jepa.report.predicates import ClaimCell, Pair
from hpc_jepa.report.questions import Answer, PairKey
from hpc_jepa.report.result_grid import Contrast, ResultGrid
from hpc_jepa.report.run_report import RunReport

BENCHMARKS = {"synth_motion8": "motion8", "ucf101_full": "ucf101"}
"""Published names of benchmarks that differ from those in ``configs/benchmark/``."""


@dataclass(frozen=True)
class StudyEvidence:
    """Runs of one study under one semantics as evidence for claims: target weights, deciding columns.

    ``asked``: comparisons of two rows that the question of the study asks for.

    A variant includes all its seeds. Only in a claim that compares a variant with itself, ``<variant>_seed<N>`` is that
    seed and ``<variant>`` is the published seed.
    """

    semantics: str
    scores: StudyScores
    grids: Mapping[str, ResultGrid]
    constants: Mapping[str, Any]
    asked: Mapping[PairKey, Contrast] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the source in the report."""
        return f"{self.scores.study}, {self.semantics} semantics"

    def same(self, cell: ClaimCell) -> ClaimCell:
        """The cell without a seed: all seeds of a variant are one accuracy."""
        return cell.model_copy(update={"variant": cell.unseeded})

    def score(self, cell: ClaimCell) -> Interval | None:
        """Accuracy over all seeds, in percent."""
        column, seeds = self._column(cell), self._seeds(cell)
        if column is None or seeds is None:
            return None
        return Interval(*mean_value(seeds, column), self._limit(cell.regime, len(seeds)))

    def difference(self, minuend: ClaimCell, subtrahend: ClaimCell) -> Interval | None:
        """Difference in points: that of the grid, with its verdict, where the grid has it; otherwise judged in the same
        way with the minuend as reference.
        """
        column, ours, theirs = self._column(minuend), self._seeds(minuend), self._seeds(subtrahend)
        if column is None or ours is None or theirs is None:
            return None
        first, second = self._row(minuend), self._row(subtrahend)
        if first == second and minuend.regime == subtrahend.regime:
            return self._between_seeds(column, minuend, subtrahend)
        if column is not self._column(subtrahend):  # of two regimes
            return self._outside(minuend.regime, _alone(column, ours, theirs))
        in_grid = self._grid_contrast(minuend, subtrahend)
        if in_grid is not None:
            contrast, sign = in_grid
            return _as_judged(contrast) if sign > 0 else -_as_judged(contrast)
        judged = column.against(first)
        if second not in judged:  # of another baseline
            return self._outside(minuend.regime, _alone(column, ours, theirs))
        return -self._outside(minuend.regime, make_contrast(label(first), judged[second], column.metric))

    def joint(self, cells: Sequence[ClaimCell]) -> JointValues | None:
        """Accuracies over the seeds that all cells have, in percent."""
        found = {cell: self._seeds(cell) for cell in cells}
        known = {cell: seeds for cell, seeds in found.items() if seeds is not None}
        columns = {cell.benchmark: self._column(cell) for cell in cells}
        if len(known) < len(found):
            return None
        scores = [
            BenchmarkScores([known[cell] for cell in cells if cell.benchmark == benchmark], column.clusters)
            for benchmark, column in columns.items()
            if column is not None
        ]
        means = joint_means(scores)
        if means is None:
            return None
        values, draws = 100 * means.values.ravel(), 100 * means.draws.reshape(len(means.draws), -1)
        return JointValues(values, draws, self._limit(cells[0].regime, means.seeds))

    def constant(self, name: str) -> Any:
        """A constant that is equal in all runs, None if it is not."""
        return self.constants.get(name)

    def caveats(self, cells: Sequence[ClaimCell], pairs: Sequence[Pair]) -> tuple[str, ...]:
        """Rows of one seed, rows whose target no gradient reached, seeds and settings that differ from the baseline."""
        rows = list(dict.fromkeys((cell.regime, self._row(cell)) for cell in cells))
        seeds = {cell: self._seeds(cell) for cell in cells}
        lone = [cell.unseeded for cell, found in seeds.items() if found is not None and len(found) == 1]
        untrained = [row[0] for regime, row in rows if _is_untrained(self.scores.configs.get((regime, row)))]
        contrasts = [
            (pair[0].unseeded, pair[1].unseeded, found[0])
            for pair in pairs
            if (found := self._grid_contrast(*pair)) is not None
        ]
        dropped = [f"{first}: {found.dropped_seeds}" for first, _, found in contrasts if found.dropped_seeds]
        differs = dict.fromkeys(
            f"{first} and {second} also differ in {listing(found.differs)}"
            for first, second, found in contrasts
            if found.differs
        )
        lines = [f"one seed: {listing(lone)}"] if lone else []
        lines += [f"weights that no gradient reached: {listing(untrained)}"] if untrained else []
        lines += [f"seeds that only one side has: {listing(dropped)}"] if dropped else []
        return (*lines, *differs)

    def _column(self, cell: ClaimCell) -> ColumnScores | None:
        """The column of a cell, None where it measures no share: claims are about percent."""
        column = self.scores.deciding.get(BENCHMARKS.get(cell.benchmark, cell.benchmark))
        found = None if column is None else self.scores.columns.get((cell.regime, column))
        return found if found is not None and found.metric.factor == 100 else None

    def _row(self, cell: ClaimCell) -> RowName:
        return cell.unseeded, self.semantics

    def _seeds(self, cell: ClaimCell) -> SeedScores | None:
        column = self._column(cell)
        return None if column is None else column.scores.get(self._row(cell))

    def _limit(self, regime: str, seeds: int) -> Limit:
        """Of an interval of fixed seeds: in a sequential study no such interval counts the looks."""
        if self.grids[regime].looks:
            return "not decided by the looks"
        return "one seed" if seeds == 1 else ""

    def _grid_contrast(self, minuend: ClaimCell, subtrahend: ClaimCell) -> tuple[Contrast, int] | None:
        """The difference of two rows in the grid, or else in the question, and its sign; None if neither has it."""
        column = self._column(minuend)
        if column is None or column is not self._column(subtrahend):
            return None
        first, second = label(self._row(minuend)), label(self._row(subtrahend))
        for row, reference, sign in ((first, second, 1), (second, first, -1)):
            cell = self.grids[minuend.regime].cell(row, str(column.column))
            if cell is not None and cell.contrast is not None and cell.contrast.reference == reference:
                return cell.contrast, sign
        asked = self.asked.get((minuend.regime, str(column.column), first, second))
        return None if asked is None else (asked, 1)

    def _outside(self, regime: str, contrast: Contrast) -> Interval:
        """A difference that the grid does not have, by its interval."""
        return Interval(contrast.points, *contrast.bounds, self._limit(regime, contrast.seeds))

    def _between_seeds(self, column: ColumnScores, first: ClaimCell, second: ClaimCell) -> Interval | None:
        """Two seeds of one variant: the claim is about these runs, so the clips decide."""
        seeds = column.scores[self._row(first)]
        if first.seed not in seeds or second.seed not in seeds:
            return None
        ours, theirs = ({0: seeds[cell.seed]} for cell in (first, second))
        contrast = _alone(column, ours, theirs)
        return Interval(contrast.points, contrast.low, contrast.high)


def collect_evidence(
    scores: StudyScores, grids: Sequence[ResultGrid], runs: Sequence[RunReport], answer: Answer | None = None
) -> list[StudyEvidence]:
    """Evidence per semantics, corrected first. ``grids``: those of the study, ``answer``: that to its question."""
    evidence = []
    for semantics in SEMANTICS:
        own = [run.config for run in runs if run.config.study == scores.study and row_name(run.config)[1] == semantics]
        widths = {config.model.encoder.width for config in own}
        constants = {"encoder_width": widths.pop()} if len(widths) == 1 else {}
        if own:
            by_regime = {grid.regime: grid for grid in grids}
            evidence.append(StudyEvidence(semantics, scores, by_regime, constants, answer.pairs if answer else {}))
    return evidence


def _alone(column: ColumnScores, first: SeedScores, second: SeedScores) -> Contrast:
    found = compare_with_reference({"": first}, second, column.clusters, column.metric.scale)
    return make_contrast("", found[""], column.metric)


def _as_judged(contrast: Contrast) -> Interval:
    """A difference of the grid with its simultaneous interval, decided where the grid decides it and nowhere else."""
    if contrast.decision is None and (contrast.one_seed or contrast.adjusted is None):
        limit: Limit = "one seed" if contrast.one_seed else "no comparison of the study"
        return Interval(contrast.points, *contrast.bounds, limit)
    limit = "" if contrast.decision is None else "not decided by the looks"
    return Interval(contrast.points, *contrast.bounds, limit, contrast.significant).agreeing


def _is_untrained(config: RunConfig | None) -> bool:
    """Whether the evaluated target is one that no gradient and no average of trained weights ever reached."""
    return config is not None and config.targets != "ema" and config.semantics.evaluated_weights == "target"
