"""Minimum detectable gain of a column: the smallest true gain that the study's design finds with 80 % power."""

import math
import statistics
from dataclasses import dataclass

from scipy.stats import t

from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL
from hpc_jepa.evaluation.stats.planning import FamilyTest, detectable_difference
from hpc_jepa.evaluation.stats.unpaired import minimum_detectable_gain
from hpc_jepa.report.result_grid import SIGNIFICANCE, Contrast, ResultGrid


@dataclass(frozen=True)
class DetectableGain:
    """Minimum gain in points detected with 80 % power: as the only comparison, and as the first of Holm's family.

    ``seeds``: common seeds of a comparison. With one, the gains are those of the sampling of test clips alone, and the
    unknown spread between seeds makes them larger.
    """

    column: str
    seeds: int
    alone: float
    family: float
    unit: str = "points"

    @property
    def sentence(self) -> str:
        """Column, gains and number of seeds, as text."""
        if self.seeds == 1:
            return (
                f"{self.column}: unknown with one seed, more than the {self._shown(self.alone)} of the test clips alone"
            )
        unit = "" if self.unit == "points" else f" {self.unit}".rstrip()
        return f"{self.column}: {self._shown(self.alone)} ({self._shown(self.family)}){unit} with {self.seeds} seeds"

    def _shown(self, value: float) -> str:
        if math.isnan(value):
            return "none"
        return f"{value:.1f}" if self.unit == "points" else f"{value:.3g}"


def detectable_gain(grid: ResultGrid, column: str) -> DetectableGain | None:
    """Minimum detectable gain over the reference of a column, None if nothing is compared with it, or looks
    decide.

    The standard error is the median of the column's comparisons, so it contains the spread between seeds that this
    study measured.
    """
    cell = grid.cell(grid.reference, column)
    contrasts = [contrast for _, contrast in grid.contrasts(column) if contrast.asked]
    if cell is None or not contrasts or grid.looks:
        return None
    several = [contrast for contrast in contrasts if not contrast.one_seed and contrast.df is not None]
    metric = grid.metric(column)
    if not several and metric.factor != 100:
        return None  # the spread of errors is not known from a value
    unit = metric.unit if metric.factor != 100 else "points"
    if not several:
        clips = round(cell.n / grid.metric(column).scale.step ** 2)  # those of equal weight
        alone = 100 * minimum_detectable_gain(cell.value / 100, max(clips, 1))
        return DetectableGain(column, 1, alone, alone, unit)
    error = statistics.median(_standard_error(contrast) for contrast in several)
    df = statistics.median(contrast.df for contrast in several if contrast.df is not None)
    seeds = round(statistics.median(contrast.seeds for contrast in several))
    tests = FamilyTest(SIGNIFICANCE), FamilyTest(SIGNIFICANCE, max(grid.family, 1))
    alone, family = (detectable_difference(error, df, test) for test in tests)
    return DetectableGain(column, seeds, alone, family, unit)


def _standard_error(contrast: Contrast) -> float:
    quantile = float(t.isf((1 - CONFIDENCE_LEVEL) / 2, contrast.df))
    return (contrast.high - contrast.low) / 2 / quantile
