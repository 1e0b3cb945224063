"""The published results: one accuracy per cell and the size of its test set; there are no predictions."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.stats.joint import DRAWS
from hpc_jepa.evaluation.stats.unpaired import CorrectCount, compare_unpaired
from hpc_jepa.io.validation import first_error
from hpc_jepa.report.evidence import Interval, JointValues, Limit, listing
from hpc_jepa.report.predicates import ClaimCell, Pair
from hpc_jepa.report.result_grid import Contrast, ResultCell, ResultGrid, adjust_p_values

PUBLISHED_RESULTS = Path(__file__).parent / "published" / "published_results.csv"

SOURCE_NAME = "published numbers"
TEST_NAME = "score test of two unpaired proportions"

REFERENCES = {"mixed": "baseline_seed42", "ucf101": "baseline"}
"""Reference variant of the paper in each regime."""

MAIN_BENCHMARKS = ("imagenet100", "ssv2", "diving48")
FURTHER_BENCHMARKS = ("synth_motion8", "ucf101_full", "ucf101_subset2000")

PROBE_EPOCHS = re.compile(r"\bprobe_epochs=(\d+)")
"""In the notes of a result."""

CONSTANTS = {"encoder_width": 768}
"""From the released configurations."""

LIMITATIONS = (
    "Every published cell is one pretraining run and one unseeded probe; the intervals cover only the sampling of test "
    "clips. Two baselines of the same objective, seeds 42 and 239, differ by 3.60 points on ImageNet-100.",
    "Predictions per sample were not published, so runs are compared as unpaired proportions. A paired test on the "
    "same clips would have more power.",
    "The baseline of the mixed regime has seed 42, all variants have seed 239 (B21).",
    "Runs without an EMA target, marked †, were evaluated on weights that no gradient reached (B1): these are results "
    "of an untrained encoder.",
    "Three mixed variants with latent dynamics had 50 instead of 100 probe epochs on video (B22).",
)
"""Limitations of the published numbers."""


@dataclass(frozen=True)
class PublishedResult:
    """Percent as printed, of ``n`` test clips.

    ``untrained``: no gradient reached the evaluated weights (B1). ``probe_epochs``: None if they were not recorded.
    """

    percent: float
    n: int
    untrained: bool
    probe_epochs: int | None = None

    @property
    def count(self) -> CorrectCount:
        """Correct answers: the integer nearest to the printed percentage."""
        return CorrectCount(round(self.percent * self.n / 100), self.n)

    @property
    def accuracy(self) -> Interval:
        """Percent as printed, with its Wilson interval."""
        low, high = self.count.interval
        return Interval(self.percent, 100 * low, 100 * high)


class _Line(Strict):
    source_file: str
    variant: str
    regime: str
    benchmark: str
    metric: Literal["top1_percent", "n_train_probe", "n_val"]
    value: float
    epochs_or_notes: str


@dataclass(frozen=True)
class PublishedStudy:
    """The published results, as evidence for claims."""

    results: Mapping[ClaimCell, PublishedResult]

    @property
    def name(self) -> str:
        """Name of the source in the report."""
        return SOURCE_NAME

    def same(self, cell: ClaimCell) -> ClaimCell:
        """Every published run is an accuracy of its own."""
        return cell

    def score(self, cell: ClaimCell) -> Interval | None:
        """Accuracy of one run with its Wilson interval."""
        return replace(self.results[cell].accuracy, limit="one seed") if cell in self.results else None

    def difference(self, minuend: ClaimCell, subtrahend: ClaimCell) -> Interval | None:
        """Difference of the printed values of two runs, with the interval of two unpaired proportions."""
        first, second = self.results.get(minuend), self.results.get(subtrahend)
        if first is None or second is None:
            return None
        unpaired = compare_unpaired(first.count, second.count)
        points = round(first.percent - second.percent, 2)
        limit: Limit = "one seed" if _about_variants((minuend, subtrahend)) else ""
        return Interval(points, 100 * unpaired.low, 100 * unpaired.high, limit)

    def joint(self, cells: Sequence[ClaimCell]) -> JointValues | None:
        """Printed values, and draws of as many test clips: runs are unpaired, and their seeds unknown."""
        found = [self.results[cell] for cell in cells if cell in self.results]
        if len(found) < len(cells):
            return None
        sizes = np.array([result.n for result in found])
        shares = np.array([result.count.share for result in found])
        draws = np.random.default_rng(0).binomial(sizes, shares, size=(DRAWS, len(found))) / sizes
        return JointValues(np.array([result.percent for result in found]), 100 * draws, "one seed")

    def constant(self, name: str) -> Any:
        """A constant of the released configurations."""
        return CONSTANTS.get(name)

    def caveats(self, cells: Sequence[ClaimCell], pairs: Sequence[Pair]) -> tuple[str, ...]:
        """Single runs, untrained weights (B1), unequal seeds (B21) and unequal probe epochs (B22)."""
        lines = ["one seed"] if all(map(_about_variants, pairs)) else []
        untrained = [cell.variant for cell in cells if self.results[cell].untrained]
        lines += [f"weights that no gradient reached (B1): {listing(untrained)}"] if untrained else []
        seeds = sorted({(ours.seed, other.seed) for ours, other in pairs if ours.seed != other.seed})
        if seeds and all(map(_about_variants, pairs)):
            lines += [f"seed {ours} against {other} (B21)" for ours, other in seeds]
        return (*lines, *self._probe_epochs(cells))

    def _probe_epochs(self, cells: Sequence[ClaimCell]) -> list[str]:
        """Benchmarks on which the probes of the cells had not the same number of epochs."""
        unequal: dict[str, list[str]] = {}
        for benchmark in dict.fromkeys(cell.benchmark for cell in cells):
            epochs = {cell.variant: self.results[cell].probe_epochs for cell in cells if cell.benchmark == benchmark}
            known = {variant: count for variant, count in epochs.items() if count is not None}
            if len(set(known.values())) > 1:
                least, most = min(known.values()), max(known.values())
                short = listing(variant for variant, count in known.items() if count < most)
                unequal.setdefault(f"{least} probe epochs for {short}, {most} for the others", []).append(benchmark)
        return [f"{line} on {' and '.join(benchmarks)} (B22)" for line, benchmarks in unequal.items()]


def read_published(path: Path = PUBLISHED_RESULTS) -> PublishedStudy:
    """Read a CSV file of published results. Raises InputError if it does not exist, DataError with file and line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CSV file of published results")
    values: dict[tuple[ClaimCell, str], tuple[float, str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            line = _parse(row, f"{path}:{number}")
            cell = ClaimCell(regime=line.regime, variant=line.variant, benchmark=line.benchmark)
            if (cell, line.metric) in values:
                raise DataError(f"{path}:{number}: {line.metric} of {cell} is there twice; keep one of them")
            values[cell, line.metric] = (line.value, line.epochs_or_notes)
    cells = dict.fromkeys(cell for cell, metric in values if metric == "top1_percent")
    if not cells:
        raise DataError(f"{path}: no top1_percent in it; give a CSV file of published results")
    return PublishedStudy({cell: _result(path, cell, values) for cell in cells})


def published_grids(published: PublishedStudy) -> list[ResultGrid]:
    """The tables of the paper: for each regime the three main benchmarks, then the further ones if there are any."""
    regimes = list(dict.fromkeys(cell.regime for cell in published.results))
    grids = [
        _grid(published, regime, columns) for columns in (MAIN_BENCHMARKS, FURTHER_BENCHMARKS) for regime in regimes
    ]
    return adjust_p_values([grid for grid in grids if grid.cells])


def other_probes(published: PublishedStudy) -> list[tuple[ClaimCell, Interval]]:
    """Results that are in no table: alternative probes of one encoder."""
    others = (cell for cell in published.results if cell.benchmark not in (*MAIN_BENCHMARKS, *FURTHER_BENCHMARKS))
    return [(cell, published.results[cell].accuracy) for cell in others]


def _grid(published: PublishedStudy, regime: str, benchmarks: Sequence[str]) -> ResultGrid:
    reference = REFERENCES.get(regime, "baseline")
    held = [cell for cell in published.results if cell.regime == regime and cell.benchmark in benchmarks]
    variants = sorted({cell.variant for cell in held}, key=lambda name: (not name.startswith("baseline"), name))
    columns = tuple(name for name in benchmarks if any(cell.benchmark == name for cell in held))
    cells = {(cell.variant, cell.benchmark): _cell(published, cell, reference) for cell in held}
    return ResultGrid(SOURCE_NAME, regime, tuple(variants), columns, cells, reference)


def _cell(published: PublishedStudy, cell: ClaimCell, reference: str) -> ResultCell:
    result, score = published.results[cell], published.results[cell].accuracy
    contrast = None if cell.variant == reference else _contrast(published, cell, reference)
    return ResultCell(score.value, score.low, score.high, result.n, 1, contrast, result.untrained)


def _contrast(published: PublishedStudy, cell: ClaimCell, reference: str) -> Contrast | None:
    other = cell.model_copy(update={"variant": reference})
    difference = published.difference(cell, other)
    if difference is None:
        return None
    p_value = compare_unpaired(published.results[cell].count, published.results[other].count).p_value
    return Contrast(reference, difference.value, difference.low, difference.high, p_value, None, TEST_NAME)


def _parse(row: dict[str, Any], place: str) -> _Line:
    try:
        return _Line.model_validate(row)
    except ValidationError as error:
        raise DataError(f"{place}: damaged line ({first_error(error)}); copy the file again") from error


def _result(path: Path, cell: ClaimCell, values: Mapping[tuple[ClaimCell, str], tuple[float, str]]) -> PublishedResult:
    percent, notes = values[cell, "top1_percent"]
    n, _ = values.get((cell, "n_val"), (0, ""))
    if not 0 <= percent <= 100:
        raise DataError(f"{path}: {cell}: {percent} is not a percentage between 0 and 100")
    if n < 1 or n != int(n):
        raise DataError(f"{path}: {cell}: n_val, the number of test clips, is missing or not a positive integer")
    epochs = PROBE_EPOCHS.search(notes)
    return PublishedResult(percent, int(n), "disable_ema" in notes, int(epochs[1]) if epochs else None)


def _about_variants(pair: Pair) -> bool:
    """Whether a difference is between variants; one of two seeds is about two runs, which the test clips decide."""
    minuend, subtrahend = pair
    return minuend.unseeded != subtrahend.unseeded
