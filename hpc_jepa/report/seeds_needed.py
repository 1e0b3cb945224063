"""How many seeds would tell a difference of a grid apart that its own seeds do not."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.planning import FamilyTest, Spread, estimate_spread, seeds_needed
from hpc_jepa.report.comparisons import ColumnScores, RowName, StudyScores, label
from hpc_jepa.report.result_grid import SIGNIFICANCE, CellKey, Contrast, ResultGrid

WITHIN_REACH = 20
"""Seeds that a sentence counts differences up to."""


@dataclass(frozen=True)
class SeedsNeeded:
    """Differences of a grid that are not told apart, over several seeds.

    ``cells``: seeds that find a true difference as large as the observed one with 80 % power at the first level of
    Holm's family, from the spread between seeds and clips of its column; None: no number of seeds does. ``lone``:
    differences of one seed, whose spread is unknown. ``asked``: all differences that the study asks for.
    """

    cells: dict[CellKey, int | None]
    lone: int
    asked: int

    def shown(self, row: str, column: str) -> str | None:
        """The seeds of a cell as text; None where the difference is told apart, or the spread unknown."""
        if (row, column) not in self.cells:
            return None
        seeds = self.cells[row, column]
        return "more clips needed" if seeds is None else f"≈ {seeds} seeds needed"

    @property
    def sentence(self) -> str:
        """How many are not told apart, and with how many seeds how many of them would be; empty if there are none."""
        if not self.cells and not self.lone:
            return ""
        parts = []
        if self.cells:
            counts = sorted(count for count in self.cells.values() if count is not None)
            reached = [count for count in counts if count <= WITHIN_REACH]
            parts.append(
                f"{len(self.cells)} of {self.asked} differences are not told apart over several seeds. ≈: seeds that "
                "would tell a true difference as large as the observed one apart (80 % power, first of the family); "
                "more clips: no number of seeds would on these test clips."
            )
            if reached:
                parts.append(f"Up to {reached[-1]} seeds would do for {len(reached)} of them.")
            elif counts:
                parts.append(f"The fewest would be {counts[0]} seeds.")
            else:
                parts.append("No number of seeds would do for any of them.")
        if self.lone:
            parts.append(
                f"{self.lone} differences are of one common seed: how many would tell them apart is unknown until a "
                "second one is run."
            )
        return " ".join(parts)


def count_seeds_needed(scores: StudyScores, grid: ResultGrid) -> SeedsNeeded:
    """For all asked differences of a grid that are not significant. Looks of a sequential study have their own rule."""
    asked = [(row, column, contrast) for row, column, contrast in grid.all_contrasts() if contrast.asked]
    if grid.looks:
        return SeedsNeeded({}, 0, len(asked))
    cells: dict[CellKey, int | None] = {}
    for column, found in scores.in_regime(grid.regime, grid.task).items():
        here = {row: contrast for row, where, contrast in asked if where == str(column) and contrast.in_family}
        for reference, rows in _by_reference(found).items():
            open_rows = {label(row) for row in rows} & {row for row, one in here.items() if not one.significant}
            spread = _spread(found, reference, rows) if open_rows else None
            if spread is None:
                continue
            test = FamilyTest(SIGNIFICANCE * len(rows) / max(grid.family, len(rows)), len(rows))
            cells |= {(row, str(column)): _needed(spread, here[row], test, found.metric.factor) for row in open_rows}
    ordered = {(row, column): cells[row, column] for row, column, _ in asked if (row, column) in cells}
    return SeedsNeeded(ordered, sum(contrast.one_seed for _, _, contrast in asked), len(asked))


def _by_reference(scores: ColumnScores) -> dict[RowName, list[RowName]]:
    found: dict[RowName, list[RowName]] = {}
    for row in scores.scores:
        reference = scores.reference_of(row)
        if reference is not None and row in scores.against(reference):
            found.setdefault(reference, []).append(row)
    return found


def _spread(scores: ColumnScores, reference: RowName, rows: Sequence[RowName]) -> Spread | None:
    """The spread over the rows that are compared with ``reference``; None if no two seeds are common."""
    variants = {label(row): scores.scores[row] for row in rows}
    try:
        return estimate_spread(variants, scores.scores[reference], scores.clusters, scores.metric.scale)
    except InputError:
        return None


def _needed(spread: Spread, contrast: Contrast, test: FamilyTest, factor: float) -> int | None:
    """More than the seeds that did not tell it apart."""
    found = seeds_needed(spread, "blocked", contrast.points / factor, test) if contrast.points else None
    return None if found is None else max(found, contrast.seeds + 1)
