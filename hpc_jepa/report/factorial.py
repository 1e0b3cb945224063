"""Factorial questions: main effects and interactions of objectives that the variants of a study compose.

Variants whose compositions are a set of parts with and without each of some factors, all else equal, are a two-level
factorial design. Effects are contrasts of its cells (Box, Hunter & Hunter 2005, chapter 5):

- main effect: the mean gain from adding a factor, over all cells of the others;
- interaction: how much more a factor adds beside the other than without it, averaged over the remaining ones.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hpc_jepa.config.run import RunConfig
from hpc_jepa.evaluation.stats.blocked import Comparison, estimate_contrast
from hpc_jepa.report.comparisons import (
    UNTRAINED,
    ColumnScores,
    RowName,
    StudyScores,
    judge_together,
    label,
)
from hpc_jepa.report.result_grid import Contrast
from hpc_jepa.report.row_names import BASELINE

MAX_FACTORS = 4

Part = tuple[str, str]
"""An objective and its options as JSON."""
Composition = frozenset[Part]
Subset = frozenset[str]
"""Names of the factors that a cell has."""


@dataclass(frozen=True)
class FactorialEffect:
    """Main effect of one factor, or interaction of several, in points."""

    factors: tuple[str, ...]
    contrast: Contrast

    @property
    def name(self) -> str:
        """``fwm``, or ``fwm x ld``."""
        return " x ".join(self.factors)


@dataclass(frozen=True)
class FactorialDesign:
    """All cells of a two-level design in one column, and its effects. ``given``: objectives that all cells have.

    ``means``: accuracy of each cell over the common seeds, in percent.
    """

    study: str
    regime: str
    column: str
    factors: tuple[str, ...]
    given: tuple[str, ...]
    cells: Mapping[Subset, str]
    means: Mapping[Subset, float]
    effects: tuple[FactorialEffect, ...]

    @property
    def title(self) -> str:
        """Factors, what all cells have, and the column."""
        given = f", all with {' and '.join(self.given)}" if self.given else ""
        return f"{' x '.join(self.factors)}{given}: {self.column}, {self.regime}"


@dataclass(frozen=True)
class _Cube:
    """Rows of a complete two-level design."""

    factors: tuple[str, ...]
    given: tuple[str, ...]
    rows: Mapping[Subset, RowName]


def factorial_designs(study: StudyScores) -> list[FactorialDesign]:
    """The largest complete designs in each column that the study is judged by; Holm's family is all their effects."""
    found = []
    for regime, scores in study.deciding_columns():
        cubes = _cubes(study, regime, _configured(study, regime, scores))
        found += [(regime, scores, cube) for cube in cubes if _common_seeds(scores, cube)]
    comparisons = {
        (number, factors): _estimate(scores, cube, factors)
        for number, (_, scores, cube) in enumerate(found)
        for factors in _effects(cube)
    }
    contrasts = judge_together(comparisons, {key: found[key[0]][1].metric for key in comparisons})
    return [
        FactorialDesign(
            study.study,
            regime,
            str(scores.column),
            cube.factors,
            cube.given,
            {subset: label(row) for subset, row in cube.rows.items()},
            _means(scores, cube),
            tuple(FactorialEffect(factors, contrasts[number, factors]) for factors in _effects(cube)),
        )
        for number, (regime, scores, cube) in enumerate(found)
    ]


def incomplete_designs(study: StudyScores) -> list[str]:
    """One line for each composed variant whose parts are not a complete design, with the cells that it lacks."""
    lines = []
    for regime, scores in study.deciding_columns():
        for group in _alike(study, regime, _configured(study, regime, scores)):
            known = {_parts(study.configs[regime, row]) for row in group}
            for row in group:
                parts = sorted(_parts(study.configs[regime, row]))
                lacking = [subset for subset in _subsets(parts) if subset not in known] if len(parts) > 1 else []
                if lacking:
                    names = ", ".join("+".join(sorted(name for name, _ in subset)) or BASELINE for subset in lacking)
                    factors = " x ".join(name for name, _ in parts)
                    lines.append(
                        f"{label(row)} ({regime}): no effects of {factors}, for want of {names} with the same settings"
                    )
    return list(dict.fromkeys(lines))


def _trained(scores: ColumnScores) -> list[RowName]:
    return [row for row in scores.scores if row[1] != UNTRAINED]


def _configured(study: StudyScores, regime: str, scores: ColumnScores) -> list[RowName]:
    return [row for row in _trained(scores) if (regime, row) in study.configs]


def _effects(cube: _Cube) -> Iterator[tuple[str, ...]]:
    """Factors of each main effect, then of each interaction."""
    for size in range(1, len(cube.factors) + 1):
        yield from combinations(cube.factors, size)


def _common_seeds(scores: ColumnScores, cube: _Cube) -> list[int]:
    return sorted(set.intersection(*(set(scores.scores[row]) for row in cube.rows.values())))


def _estimate(scores: ColumnScores, cube: _Cube, factors: Sequence[str]) -> Comparison:
    variants = {label(row): scores.scores[row] for row in _trained(scores)}
    weights = {label(cube.rows[subset]): weight for subset, weight in _weights(factors, cube).items()}
    return estimate_contrast(variants, weights, scores.clusters, scores.metric.scale)


def _means(scores: ColumnScores, cube: _Cube) -> dict[Subset, float]:
    """Mean over the common seeds, accuracy in percent."""
    seeds = _common_seeds(scores, cube)
    return {
        subset: scores.metric.factor * float(np.mean([scores.scores[row][seed] for seed in seeds]))
        for subset, row in cube.rows.items()
    }


def _weights(factors: Sequence[str], cube: _Cube) -> dict[Subset, float]:
    """Of each cell in the effect of ``factors``: differences over them, mean over the other factors."""
    others = len(cube.factors) - len(factors)
    return {subset: (-1.0) ** sum(factor not in subset for factor in factors) / 2**others for subset in cube.rows}


def _cubes(study: StudyScores, regime: str, rows: Sequence[RowName]) -> list[_Cube]:
    """Complete designs of two or more factors, of rows that differ in their objectives alone; none inside another."""
    found: list[_Cube] = []
    for group in _alike(study, regime, rows):
        by_parts = {_parts(study.configs[regime, row]): row for row in group}
        cubes = [cube for base in by_parts for cube in _cubes_on(base, by_parts)]
        cubes.sort(key=lambda cube: -len(cube.factors))
        for cube in cubes:
            if not any(set(cube.rows.values()) <= set(other.rows.values()) for other in found):
                found.append(cube)
    return found


def _alike(study: StudyScores, regime: str, rows: Sequence[RowName]) -> list[list[RowName]]:
    """Groups of rows that differ in nothing but their objectives."""
    groups: list[list[RowName]] = []
    for row in rows:
        for group in groups:
            if all(name.startswith("objectives.") for name in study.differing(regime, row, group[0])):
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def _cubes_on(base: Composition, rows: Mapping[Composition, RowName]) -> Iterator[_Cube]:
    """Complete designs whose smallest cell is ``base``."""
    taken = {name for name, _ in base}
    single = [part for other in rows if len(other) == len(base) + 1 and base < other for part in other - base]
    parts = sorted({part for part in single if part[0] not in taken})
    for size in range(2, min(len(parts), MAX_FACTORS) + 1):
        for chosen in combinations(parts, size):
            factors = tuple(name for name, _ in chosen)
            cells = {subset: base | subset for subset in _subsets(chosen)}
            if len(set(factors)) == size and all(cell in rows for cell in cells.values()):
                named = {frozenset(name for name, _ in subset): rows[cell] for subset, cell in cells.items()}
                yield _Cube(factors, tuple(sorted(taken)), named)


def _subsets(parts: Sequence[Part]) -> Iterator[Composition]:
    for size in range(len(parts) + 1):
        yield from map(frozenset, combinations(parts, size))


def _parts(config: RunConfig) -> Composition:
    return frozenset((choice.name, json.dumps(choice.options, sort_keys=True)) for choice in config.objectives)
