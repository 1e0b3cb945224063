"""Result grid of a study: variants by benchmarks, each cell with its interval and its difference to the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpc_jepa.config.benchmark import MetricName, Task
from hpc_jepa.evaluation.stats.accuracy import PROPORTION, Scale
from hpc_jepa.evaluation.stats.metrics import METRICS
from hpc_jepa.evaluation.stats.sequential import Decision
from hpc_jepa.evaluation.stats.simultaneous import holm

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Contrast:
    """Difference to the reference with its 95 % interval and its p-value: in points, or of a target in its ``unit``.

    Of an error a negative difference is a gain: ``higher_is_better`` is False.
    ``seeds``: pretraining seeds that both sides have; 1 if the difference is between two single runs, which is never
    significant. ``asked``: the study asks for this comparison, so it belongs to the family of Holm's correction.
    ``adjusted``: p-value after Holm, None outside the family. ``simultaneous_low`` and ``simultaneous_high``: interval
    that holds for all variants of the column at once. ``clusters``: source videos of the test clips, None if unknown.
    ``differs``: settings beside the objective that differ from the reference. ``decision``: that of a sequential study
    by its own rule, which takes the place of Holm's correction; None in other studies.
    """

    reference: str
    points: float
    low: float
    high: float
    p_value: float
    adjusted: float | None
    test: str
    seeds: int = 1
    dropped_seeds: int = 0
    clusters: int | None = None
    df: float | None = None
    simultaneous_low: float | None = None
    simultaneous_high: float | None = None
    asked: bool = True
    differs: tuple[str, ...] = ()
    decision: Decision | None = None
    unit: str = "points"
    higher_is_better: bool = True

    def __neg__(self) -> "Contrast":
        """The difference with its sides exchanged, except for the name of the ``reference``."""
        low, high = (None if end is None else -end for end in (self.simultaneous_high, self.simultaneous_low))
        return replace(
            self, points=-self.points, low=-self.high, high=-self.low, simultaneous_low=low, simultaneous_high=high
        )

    @property
    def gain(self) -> bool:
        """Whether the variant is better than the reference."""
        return (self.points > 0) == self.higher_is_better and self.points != 0

    def signed(self, value: float, decimals: int = 2) -> str:
        """The difference or an end of its interval: points with these decimals, another unit with three digits."""
        return f"{_rounded(value, decimals):+.{decimals}f}" if self.unit == "points" else f"{value:+.3g}"

    def rounded(self, value: float) -> float:
        """Points to two decimals, another unit to six digits."""
        return _rounded(value, 2) if self.unit == "points" else float(f"{value:.6g}")

    @property
    def one_seed(self) -> bool:
        """Whether the difference is between two single runs: evidence about them, not about the objective."""
        return self.seeds == 1

    @property
    def in_family(self) -> bool:
        """Whether Holm's correction includes the comparison."""
        return self.asked and not self.one_seed

    @property
    def verdict(self) -> Decision | None:
        """The decision of a sequential study, None where its rule does not cover the difference."""
        return self.decision if self.asked else None

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below SIGNIFICANCE, never with one seed; in a sequential study whether its
        rule has decided for a gain or loss.
        """
        if self.decision is not None:
            return self.decision in ("gain", "loss")
        return self.adjusted is not None and not self.one_seed and self.adjusted < SIGNIFICANCE

    @property
    def bounds(self) -> tuple[float, float]:
        """The simultaneous interval, the plain one where there is none."""
        if self.simultaneous_low is None or self.simultaneous_high is None:
            return self.low, self.high
        return self.simultaneous_low, self.simultaneous_high


@dataclass(frozen=True)
class ResultCell:
    """A metric, accuracy in percent, with its 95 % interval over ``n`` test clips and ``seeds`` pretraining seeds.

    ``clusters``: source videos that the clips come from, None if unknown.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    contrast: Contrast | None = None
    untrained: bool = False
    clusters: int | None = None
    percent: bool = True

    def number(self, value: float, decimals: int = 2) -> str:
        """The value or an end of its interval: a percentage with these decimals, another unit with four digits."""
        return f"{value:.{decimals}f}" if self.percent else f"{value:.4g}"

    def rounded(self, value: float) -> float:
        """A percentage to two decimals, another unit to six digits."""
        return _rounded(value, 2) if self.percent else float(f"{value:.6g}")


@dataclass(frozen=True)
class ColumnMetric:
    """What the cells of a column measure. ``recall``: name of a share that is no accuracy, as ``R@5``.

    ``counted``: what the scores are of.
    """

    name: MetricName = "accuracy"
    scale: Scale = PROPORTION
    target: str = ""
    target_unit: str = ""
    recall: str = ""
    counted: str = "clips"

    @property
    def unit(self) -> str:
        """Unit of the values: % of a share, that of the target of an error."""
        metric = METRICS[self.name]
        return "%" if metric.factor == 100 else self.target_unit if metric.in_unit else ""

    @property
    def higher_is_better(self) -> bool:
        """Whether a positive difference is a gain."""
        return METRICS[self.name].higher_is_better

    @property
    def factor(self) -> float:
        """Printed value of a score of 1."""
        return METRICS[self.name].factor

    @property
    def title(self) -> str:
        """Name, target and unit."""
        target = f" of {self.target}" if self.target else ""
        return f"{self.recall or METRICS[self.name].title}{target}{f', {self.unit}' if self.unit else ''}"


ACCURACY = ColumnMetric()

CellKey = tuple[str, str]
"""Row and column."""


@dataclass(frozen=True)
class ResultGrid:
    """Variants (rows) by benchmarks (columns). Missing results are not in ``cells``.

    ``family``: number of differences that p-values are adjusted for, over all grids of the source. ``metrics``: of the
    columns that measure something else than accuracy. ``looks``: which decisions a sequential study has taken, in
    words; empty for other studies. ``task``, ``part``: of another task than probes, what the grid is about;
    ``headings``: its columns in short.
    """

    source: str
    regime: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[CellKey, ResultCell]
    reference: str
    family: int = 0
    metrics: Mapping[str, ColumnMetric] = field(default_factory=dict)
    looks: str = ""
    task: Task = "probe"
    part: str = ""
    headings: Mapping[str, str] = field(default_factory=dict)

    def metric(self, column: str) -> ColumnMetric:
        """What a column measures."""
        return self.metrics.get(column, ACCURACY)

    @property
    def title(self) -> str:
        """Source and regime, and the part of a task."""
        return f"{self.source}, regime {self.regime}{f': {self.part}' if self.part else ''}"

    def heading(self, column: str) -> str:
        """A column in short, as the title says the rest."""
        return self.headings.get(column, column)

    @property
    def references(self) -> tuple[str, ...]:
        """Rows that others are compared with and that are compared with none: one per phase and point of the axes."""
        contrasts = self.all_contrasts()
        used = {contrast.reference for _, _, contrast in contrasts} | {self.reference}
        compared = {row for row, _, _ in contrasts}
        return tuple(row for row in self.rows if row in used - compared)

    @property
    def compared_with(self) -> str:
        """What the differences of the grid are to, as text."""
        return self.reference if len(self.references) < 2 else "the baseline of the same phase and settings"

    def cell(self, row: str, column: str) -> ResultCell | None:
        """The cell, None if it is missing."""
        return self.cells.get((row, column))

    def contrasts(self, column: str) -> list[tuple[str, Contrast]]:
        """Rows with a difference to the reference."""
        cells = ((row, self.cell(row, column)) for row in self.rows)
        return [(row, cell.contrast) for row, cell in cells if cell is not None and cell.contrast is not None]

    def all_contrasts(self) -> list[tuple[str, str, Contrast]]:
        """Row, column and difference of all cells that have one."""
        return [(row, column, contrast) for column in self.columns for row, contrast in self.contrasts(column)]

    def tests(self) -> list[str]:
        """Names of the tests of all differences."""
        return sorted({contrast.test for _, _, contrast in self.all_contrasts()})

    def column_facts(self, column: str) -> str:
        """Clips and source videos of a column, and its metric if it is not accuracy; empty without a cell."""
        cell = next((cell for row in self.rows if (cell := self.cell(row, column)) is not None), None)
        if cell is None:
            return ""
        better = "" if self.metric(column).higher_is_better else " (lower is better)"
        metric = f"{self.metric(column).title}{better}; " if column in self.metrics else ""
        videos = "" if cell.clusters is None else f" of {cell.clusters:,} videos"
        return f"{metric}{cell.n:,} {self.metric(column).counted}{videos}"

    def row_caveat(self, row: str) -> str:
        """What limits all comparisons of a row: one seed, or settings beside the objective. Empty if nothing."""
        contrasts = [contrast for name, _, contrast in self.all_contrasts() if name == row and contrast.asked]
        lines = []
        if any(contrast.one_seed for contrast in contrasts):
            lines.append("one seed: not judged")
        differs = {contrast.differs for contrast in contrasts}
        if len(differs) == 1 and (settings := differs.pop()):
            lines.append(f"also differs in {_shortened(settings)}")
        return "; ".join(lines)


def adjust_p_values(grids: Sequence[ResultGrid]) -> list[ResultGrid]:
    """Adjust p-values by Holm's method, with all comparisons that the grids ask for as one family.

    Comparisons of single runs are outside: they cannot show a gain of an objective.
    """
    found = [
        (number, key, cell.contrast)
        for number, grid in enumerate(grids)
        for key, cell in grid.cells.items()
        if cell.contrast is not None and cell.contrast.in_family
    ]
    adjusted = holm([contrast.p_value for _, _, contrast in found])
    corrected = {(number, key): value for (number, key, _), value in zip(found, adjusted, strict=True)}
    return [_with(grid, number, corrected) for number, grid in enumerate(grids)]


def _with(grid: ResultGrid, number: int, corrected: Mapping[tuple[int, CellKey], float]) -> ResultGrid:
    cells = {
        key: replace(cell, contrast=replace(cell.contrast, adjusted=corrected.get((number, key))))
        if cell.contrast
        else cell
        for key, cell in grid.cells.items()
    }
    return replace(grid, cells=cells, family=len(corrected))


def _rounded(value: float, decimals: int) -> float:
    """Never minus zero."""
    return round(value, decimals) + 0.0


def _shortened(settings: Sequence[str], shown: int = 2) -> str:
    """The first settings, and the number of the others."""
    rest = len(settings) - shown
    return ", ".join(settings[:shown]) + (f" and {rest} more" if rest > 0 else "")
