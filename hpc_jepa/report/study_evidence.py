"""Runs of a study as evidence for claims: pretraining seeds are replicates, test clips are paired."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_jepa.config.semantics import preset_of
from hpc_jepa.evaluation.stats import hierarchical
from hpc_jepa.evaluation.stats.paired import Correct, accuracy, compare_paired
from hpc_jepa.report.claims import ClaimCell
from hpc_jepa.report.result_grid import CellKey, Contrast, ResultCell, ResultGrid, adjust_p_values
from hpc_jepa.report.results import RANDOM, ResultRow
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.verdicts import Interval

Replicates = dict[int, Correct]
"""By pretraining seed: which test clips each probe seed classifies correctly, [S, n]."""

PAIRED = "exact McNemar test, paired bootstrap interval"
HIERARCHICAL = "hierarchical bootstrap over seeds and clips"

BASELINE = "baseline"
SEMANTICS = ("corrected", "published")
PROTOCOLS = ("published", "standard")

BENCHMARKS = {"synth_motion8": "motion8", "ucf101_full": "ucf101"}
"""Published names of benchmarks that differ from those in ``configs/benchmark/``."""

SEEDED = re.compile(r"(?P<variant>.+)_seed(?P<seed>\d+)")
SEED = 239
"""Seed of published runs without a seed in their name."""


@dataclass(frozen=True)
class ProbeColumn:
    """A column of the grid: the first probe of a protocol of a benchmark."""

    benchmark: str
    protocol: str
    probe: str

    def __str__(self) -> str:
        return f"{self.benchmark}, {self.protocol}, {self.probe.replace('_', ' ')}"


@dataclass(frozen=True)
class StudyEvidence:
    """Runs of one study under one semantics as evidence for claims: target weights, first probe.

    A variant includes all its seeds. Only in a claim that compares a variant with itself, ``<variant>_seed<N>`` is that
    seed and ``<variant>`` is the published seed.
    """

    study: str
    semantics: str
    columns: Mapping[str, ProbeColumn]
    replicates: Mapping[tuple[str, str, ProbeColumn], Replicates]
    constants: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the source in the report."""
        return f"{self.study}, {self.semantics} semantics"

    def score(self, cell: ClaimCell) -> Interval | None:
        """Accuracy over all seeds, in percent."""
        seeds = self._all_seeds(cell)
        return None if seeds is None else _mean(seeds)

    def difference(self, minuend: ClaimCell, subtrahend: ClaimCell) -> Interval | None:
        """Difference in points, paired on the same clips."""
        same_variant = _variant(minuend) == _variant(subtrahend)
        sides = [self._one_seed(cell) if same_variant else self._all_seeds(cell) for cell in (minuend, subtrahend)]
        if sides[0] is None or sides[1] is None:
            return None
        contrast = compare_replicates("", sides[0], sides[1])
        return Interval(contrast.points, contrast.low, contrast.high)

    def constant(self, name: str) -> Any:
        """A constant that is equal in all runs, None if it is not."""
        return self.constants.get(name)

    def _all_seeds(self, cell: ClaimCell) -> Replicates | None:
        column = self.columns.get(BENCHMARKS.get(cell.benchmark, cell.benchmark))
        return None if column is None else self.replicates.get((cell.regime, _variant(cell), column))

    def _one_seed(self, cell: ClaimCell) -> Replicates | None:
        named = SEEDED.fullmatch(cell.variant)
        seed = int(named["seed"]) if named else SEED
        seeds = self._all_seeds(cell)
        return {seed: seeds[seed]} if seeds is not None and seed in seeds else None


def collect_evidence(runs: Sequence[RunReport], correct: Mapping[ResultRow, Correct]) -> list[StudyEvidence]:
    """Evidence per study and semantics, corrected first."""
    evidence = []
    for study in dict.fromkeys(run.config.study for run in runs):
        rows = [row for row in correct if row.study == study]
        for semantics in SEMANTICS:
            own = [run for run in runs if (run.config.study, run.config.semantics_name) == (study, semantics)]
            if own:
                evidence.append(_evidence(study, semantics, own, rows, correct))
    return evidence


def study_grids(correct: Mapping[ResultRow, Correct], runs: Sequence[RunReport]) -> list[ResultGrid]:
    """One grid per study and regime, with a row for every variant. Holm's family is all differences of a study."""
    grids = []
    for study in dict.fromkeys(row.study for row in correct):
        rows = [row for row in correct if row.study == study]
        regimes = dict.fromkeys(row.regime for row in rows)
        grids += adjust_p_values([_grid(study, regime, rows, correct, runs) for regime in regimes])
    return grids


def compare_replicates(reference: str, first: Replicates, second: Replicates) -> Contrast:
    """First minus second, in points. If both have one seed, the variation between seeds is unknown and not included."""
    if len(first) == len(second) == 1:
        (ours,), (theirs,) = first.values(), second.values()
        difference, test = compare_paired(ours, theirs), PAIRED
    else:
        difference, test = hierarchical.estimate_difference(_scores(first), _scores(second)), HIERARCHICAL
    percent = _percent(difference.value, difference.low, difference.high)
    return Contrast(reference, *percent, difference.p_value, math.nan, test)


def _evidence(
    study: str,
    semantics: str,
    runs: Sequence[RunReport],
    rows: Sequence[ResultRow],
    correct: Mapping[ResultRow, Correct],
) -> StudyEvidence:
    columns: dict[str, ProbeColumn] = {}
    for row in sorted(rows, key=lambda row: PROTOCOLS.index(row.protocol)):
        columns.setdefault(row.benchmark, _column(row))
    own = [row for row in rows if row.semantics == semantics]
    widths = {run.config.model.encoder.width for run in runs}
    constants = {"encoder_width": widths.pop()} if len(widths) == 1 else {}
    replicates = {(regime, variant, column): seeds for (regime, variant, _, column), seeds in _by_cell(own, correct)}
    return StudyEvidence(study, semantics, columns, replicates, constants)


def _grid(
    study: str, regime: str, rows: Sequence[ResultRow], correct: Mapping[ResultRow, Correct], runs: Sequence[RunReport]
) -> ResultGrid:
    here = [row for row in rows if row.regime == regime]
    first: dict[tuple[str, str], ProbeColumn] = {}
    for row in here:
        first.setdefault((row.benchmark, row.protocol), _column(row))
    replicates = {
        (variant, semantics, column): seeds for (_, variant, semantics, column), seeds in _by_cell(here, correct)
    }
    names = {(variant, semantics) for variant, semantics, _ in replicates}
    own = [run.config for run in runs if (run.config.study, run.config.regime) == (study, regime)]
    names |= {(config.variant, config.semantics_name) for config in own}
    baselines = [name for name in names if name[0] == BASELINE]
    reference = min(baselines, key=lambda name: (name[1] not in SEMANTICS, name), default=None)
    cells: dict[CellKey, ResultCell] = {}
    for (variant, semantics, column), seeds in replicates.items():
        if column in first.values():
            against = _reference(variant, semantics, column, replicates)
            cells[_label(variant, semantics), str(column)] = _cell(seeds, against, replicates, column)
    ordered = sorted(names, key=lambda name: (name[0] != RANDOM, name[0] != BASELINE, *name))
    labels = tuple(_label(*name) for name in ordered)
    return ResultGrid(
        study, regime, labels, tuple(map(str, first.values())), cells, _label(*reference) if reference else ""
    )


def _reference(
    variant: str, semantics: str, column: ProbeColumn, replicates: Mapping[tuple[str, str, ProbeColumn], Replicates]
) -> tuple[str, str] | None:
    """The baseline to compare a row with: of the same semantics, else of the same preset, else of the other; None for
    the baseline itself.
    """
    if variant == BASELINE:
        return None
    order = dict.fromkeys((semantics, preset_of(semantics), *SEMANTICS))
    return next(((BASELINE, name) for name in order if (BASELINE, name, column) in replicates), None)


def _cell(
    seeds: Replicates,
    against: tuple[str, str] | None,
    replicates: Mapping[tuple[str, str, ProbeColumn], Replicates],
    column: ProbeColumn,
) -> ResultCell:
    score = _mean(seeds)
    n = next(iter(seeds.values())).shape[1]
    contrast = compare_replicates(_label(*against), seeds, replicates[(*against, column)]) if against else None
    return ResultCell(score.value, score.low, score.high, n, len(seeds), contrast)


def _by_cell(
    rows: Iterable[ResultRow], correct: Mapping[ResultRow, Correct]
) -> Iterable[tuple[tuple[str, str, str, ProbeColumn], Replicates]]:
    """Seeds by regime, variant, semantics and column, without student weights."""
    cells: dict[tuple[str, str, str, ProbeColumn], Replicates] = {}
    for row in rows:
        if row.weights != "student":
            cells.setdefault((row.regime, row.variant, row.semantics, _column(row)), {})[row.seed] = correct[row]
    return cells.items()


def _column(row: ResultRow) -> ProbeColumn:
    return ProbeColumn(row.benchmark, row.protocol, row.probe)


def _label(variant: str, semantics: str) -> str:
    shown = semantics.removeprefix("corrected").removeprefix(", ")
    return variant if shown in ("none", "") else f"{variant} ({shown})"


def _variant(cell: ClaimCell) -> str:
    named = SEEDED.fullmatch(cell.variant)
    return named["variant"] if named else cell.variant


def _mean(seeds: Replicates) -> Interval:
    estimate = accuracy(next(iter(seeds.values()))) if len(seeds) == 1 else hierarchical.estimate_mean(_scores(seeds))
    return Interval(*_percent(estimate.value, estimate.low, estimate.high))


def _scores(seeds: Replicates) -> hierarchical.Scores:
    return np.stack([correct.mean(axis=0) for correct in seeds.values()])


def _percent(value: float, low: float, high: float) -> tuple[float, float, float]:
    return 100 * value, 100 * low, 100 * high
