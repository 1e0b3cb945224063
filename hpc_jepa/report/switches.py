"""Comparisons of semantics: a variant under both presets, and rows that differ in one single switch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from hpc_jepa.report.comparisons import SEMANTICS, UNTRAINED, ColumnScores, RowName, StudyScores, judge_together
from hpc_jepa.report.result_grid import Contrast
from hpc_jepa.report.wording import judged, over_seeds, signed_interval

PREFIX = "semantics."


@dataclass(frozen=True)
class SemanticsComparison:
    """``first`` minus ``second`` over their common seeds in one column, and the settings in which they differ.

    ``values``: of the only switch that differs, first and second, as text.
    """

    study: str
    regime: str
    column: str
    first: str
    second: str
    differing: tuple[str, ...]
    contrast: Contrast
    values: tuple[str, str] | None = None

    @property
    def switch(self) -> str | None:
        """The switch, if nothing else differs."""
        return self.differing[0].removeprefix(PREFIX) if self.values is not None else None

    @property
    def sentence(self) -> str | None:
        """What the switch does to the accuracy; None if more than one setting differs: there is no one cause."""
        if self.switch is None or self.values is None:
            return None
        return (
            f"{self.first} against {self.second}, which differ in {self.switch} alone ({self.values[0]} against "
            f"{self.values[1]}; {self.column}, {self.regime}): {signed_interval(self.contrast)} "
            f"{over_seeds(self.contrast)}, {judged(self.contrast)}."
        )


def compare_semantics(study: StudyScores) -> list[SemanticsComparison]:
    """All comparisons of semantics in the columns that the study is judged by.

    Those of a single switch come first and are one family of Holm's correction; the others, which have no one cause,
    are another.
    """
    pairs = [
        _Pair(regime, scores, first, second, differing)
        for regime, scores in study.deciding_columns()
        for first, second in combinations(_trained(scores), 2)
        if _is_of_semantics(first, second, differing := study.differing(regime, first, second))
    ]
    single = [pair for pair in pairs if pair.is_single]
    return [*_compare(study, single), *_compare(study, [pair for pair in pairs if not pair.is_single])]


@dataclass(frozen=True)
class _Pair:
    regime: str
    scores: ColumnScores
    first: RowName
    second: RowName
    differing: tuple[str, ...]

    @property
    def is_single(self) -> bool:
        return len(self.differing) == 1


def _is_of_semantics(first: RowName, second: RowName, differing: tuple[str, ...]) -> bool:
    """Whether the rows are one variant with a switch as all that differs, or under both presets."""
    single = len(differing) == 1 and differing[0].startswith(PREFIX)
    return first[0] == second[0] and (single or {first[1], second[1]} == set(SEMANTICS))


def _compare(study: StudyScores, pairs: Sequence[_Pair]) -> list[SemanticsComparison]:
    contrasts = judge_together(
        {i: pair.scores.compare(pair.first, pair.second) for i, pair in enumerate(pairs)},
        {i: pair.scores.metric for i, pair in enumerate(pairs)},
    )
    return [
        SemanticsComparison(
            study.study,
            pair.regime,
            str(pair.scores.column),
            _name(pair.first),
            _name(pair.second),
            pair.differing,
            contrasts[i],
            _values(study, pair) if pair.is_single else None,
        )
        for i, pair in enumerate(pairs)
    ]


def _values(study: StudyScores, pair: _Pair) -> tuple[str, str]:
    """Values of the switch on both sides, as in YAML."""
    name = pair.differing[0].removeprefix(PREFIX)
    first, second = (study.configs[pair.regime, row].semantics for row in (pair.first, pair.second))
    return str(getattr(first, name)).lower(), str(getattr(second, name)).lower()


def _trained(scores: ColumnScores) -> list[RowName]:
    """Trained rows; of one variant, corrected semantics first."""
    rows = [row for row in scores.scores if row[1] != UNTRAINED]
    return sorted(rows, key=lambda row: (row[0], row[1] != SEMANTICS[0], row[1]))


def _name(row: RowName) -> str:
    return f"{row[0]} ({row[1]})"
