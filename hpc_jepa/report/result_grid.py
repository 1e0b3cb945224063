"""Result grid of a study: variants by benchmarks, each cell with its interval and its difference to the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpc_jepa.evaluation.stats.simultaneous import holm
from hpc_jepa.evaluation.stats.unpaired import minimum_detectable_gain

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Contrast:
    """Difference to the reference in points with its 95 % interval, its p-value, and its p-value after Holm."""

    reference: str
    points: float
    low: float
    high: float
    p_value: float
    adjusted: float
    test: str

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below SIGNIFICANCE."""
        return self.adjusted < SIGNIFICANCE


@dataclass(frozen=True)
class ResultCell:
    """Accuracy in percent with its 95 % interval over ``n`` test clips and ``seeds`` pretraining seeds."""

    value: float
    low: float
    high: float
    n: int
    seeds: int
    contrast: Contrast | None = None
    untrained: bool = False


CellKey = tuple[str, str]
"""Row and column."""


@dataclass(frozen=True)
class ResultGrid:
    """Variants (rows) by benchmarks (columns). Missing results are not in ``cells``.

    ``family``: number of differences that p-values are adjusted for, over all grids of the source.
    """

    source: str
    regime: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[CellKey, ResultCell]
    reference: str
    family: int = 0

    @property
    def title(self) -> str:
        """Source and regime."""
        return f"{self.source}, regime {self.regime}"

    def cell(self, row: str, column: str) -> ResultCell | None:
        """The cell, None if it is missing."""
        return self.cells.get((row, column))

    def contrasts(self, column: str) -> list[tuple[str, Contrast]]:
        """Rows with a difference to the reference."""
        cells = ((row, self.cell(row, column)) for row in self.rows)
        return [(row, cell.contrast) for row, cell in cells if cell is not None and cell.contrast is not None]

    def detectable(self, column: str) -> "DetectableGain | None":
        """Minimum detectable gain over the reference of this column, None if the reference is missing."""
        cell = self.cell(self.reference, column)
        if cell is None:
            return None
        share, tests = cell.value / 100, max(self.family, 1)
        alone, family = minimum_detectable_gain(share, cell.n), minimum_detectable_gain(share, cell.n, tests)
        return DetectableGain(column, cell.n, 100 * alone, 100 * family)

    def tests(self) -> list[str]:
        """Names of the tests of all differences."""
        return sorted({contrast.test for column in self.columns for _, contrast in self.contrasts(column)})


@dataclass(frozen=True)
class DetectableGain:
    """Minimum gain in points detected with 80 % power between two runs: as the only comparison, and in a family."""

    column: str
    n: int
    alone: float
    family: float

    @property
    def sentence(self) -> str:
        """Column, gains and number of clips, as text."""
        return f"{self.column} {_points(self.alone)} ({_points(self.family)}), {self.n:,} clips"


def adjust_p_values(grids: Sequence[ResultGrid]) -> list[ResultGrid]:
    """Adjust p-values by Holm's method, with all differences of the grids as one family."""
    keys = [(number, key) for number, grid in enumerate(grids) for key in grid.cells if grid.cells[key].contrast]
    p_values = [contrast.p_value for number, key in keys if (contrast := grids[number].cells[key].contrast)]
    corrected = dict(zip(keys, holm(p_values), strict=True))
    return [_with(grid, number, corrected) for number, grid in enumerate(grids)]


def _with(grid: ResultGrid, number: int, corrected: Mapping[tuple[int, CellKey], float]) -> ResultGrid:
    cells = {
        key: replace(cell, contrast=replace(cell.contrast, adjusted=corrected[number, key])) if cell.contrast else cell
        for key, cell in grid.cells.items()
    }
    return replace(grid, cells=cells, family=len(corrected))


def _points(value: float) -> str:
    return f"{value:.1f}" if value == value else "none"
