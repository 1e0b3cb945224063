"""Questions of studies, answered: the contrasts that ``about:`` asks for, in the columns that it names.

Contrasts are estimated as in the tables, over pretraining seeds and test clips. Those of one study are one family of
Holm's correction, and nothing else is in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from pathlib import Path
from typing import Literal

import numpy as np

from hpc_jepa.config.about import ContrastConfig, OutcomeConfig
from hpc_jepa.config.benchmark import PROTOCOLS
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.semantics import row_label
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.conditions import MEAN
from hpc_jepa.evaluation.stats.blocked import Comparison
from hpc_jepa.report.answer_seeds import AnswerSeeds, seeds_to_decide
from hpc_jepa.report.comparisons import UNTRAINED, ColumnScores, RowName, StudyScores, judge_together, label
from hpc_jepa.report.differing_settings import beside_composition
from hpc_jepa.report.result_grid import CellKey, Contrast, ResultGrid
from hpc_jepa.report.results import ResultColumn
from hpc_jepa.report.run_report import RunReport

Kind = Literal["groups", "main effect", "interaction", "baseline"]

PairKey = tuple[str, str, str, str]
"""Regime, column, and the names of two rows: the first minus the second."""

RECALLS = ("R@1", "R@5", "R@10")
LARGEST_MATCHING = 6
"""Variants of a group up to which pairs of both groups are looked for."""


@dataclass(frozen=True)
class AskedContrast:
    """One comparison that a study asks for.

    ``name``: ``factorised - plain``, a factor, ``a x b``, or the variant that is compared with the baseline.
    ``weights``: of each row, by its name in tables. ``alone``: the settings in which the two sides differ, if they are
    the same for all pairs of variants; only then is a cause known. ``needed``: seeds that would decide it; None if it
    is decided.
    """

    regime: str
    column: ResultColumn
    kind: Kind
    name: str
    weights: Mapping[str, float]
    contrast: Contrast
    alone: tuple[str, ...] = ()
    needed: AnswerSeeds | None = None

    @property
    def outcome(self) -> Literal["gain", "loss"] | None:
        """What is decided, None if nothing: a difference beside which other settings differ is neither."""
        if not self.contrast.significant or self.contrast.differs:
            return None
        return "gain" if self.contrast.gain else "loss"


@dataclass(frozen=True)
class Answer:
    """All comparisons that a study asks for, those of the groups or factors first. ``missing``: one line for each
    column or variant without results.
    """

    study: str
    question: str
    outcome: OutcomeConfig
    contrast: ContrastConfig
    contrasts: Sequence[AskedContrast]
    scores: StudyScores | None = field(default=None, repr=False, compare=False)
    missing: Sequence[str] = ()

    @property
    def family(self) -> int:
        """Comparisons that p-values are adjusted for."""
        return sum(asked.contrast.in_family for asked in self.contrasts)

    @property
    def pairs(self) -> dict[PairKey, Contrast]:
        """The comparisons of two single rows, in both directions: where a grid or a claim has one, it is this one."""
        found: dict[PairKey, Contrast] = {}
        for asked in self.contrasts:
            by_weight = {weight: name for name, weight in asked.weights.items()}
            if by_weight.keys() == {1.0, -1.0} and len(asked.weights) == 2:
                where = (asked.regime, str(asked.column))
                found.setdefault((*where, by_weight[1.0], by_weight[-1.0]), asked.contrast)
                found.setdefault((*where, by_weight[-1.0], by_weight[1.0]), -asked.contrast)
        return found

    def of_kind(self, *kinds: Kind) -> list[AskedContrast]:
        """The comparisons of some kinds."""
        return [asked for asked in self.contrasts if asked.kind in kinds]


def read_studies(runs: Sequence[RunReport]) -> dict[str, StudyConfig]:
    """The configuration of each study that asks a question and has a sound ``study.yaml``."""
    found: dict[str, StudyConfig] = {}
    for run in runs:
        path = Path(run.study.config_file)
        if run.config.study in found or not path.is_file():
            continue
        try:
            study = read_config(StudyConfig, [path])
        except InputError:  # a report on the whole study names it among the gaps
            continue
        if study.about.outcome is not None and study.study == run.config.study:
            found[study.study] = study
    return found


def answer_questions(scores: Sequence[StudyScores], studies: Mapping[str, StudyConfig]) -> list[Answer]:
    """The answer of each study that asks a question, also of one without results that could answer it."""
    by_name = {each.study: each for each in scores}
    return [_answer(study, by_name.get(name)) for name, study in studies.items()]


def judge_by_questions(grids: Sequence[ResultGrid], answers: Sequence[Answer]) -> list[ResultGrid]:
    """Grids in which the differences of a study that asks a question are judged in the family of the question.

    A difference that it does not ask for, as groups or against the baseline, is shown without a verdict.
    """
    by_study = {answer.study: answer for answer in answers}
    return [_judged(grid, by_study[grid.source]) if grid.source in by_study else grid for grid in grids]


def _judged(grid: ResultGrid, answer: Answer) -> ResultGrid:
    asked = answer.pairs

    def judged(key: CellKey, contrast: Contrast) -> Contrast:
        row, column = key
        own = asked.get((grid.regime, column, row, contrast.reference))
        if own is not None:
            low, high = own.simultaneous_low, own.simultaneous_high
            return replace(contrast, asked=True, adjusted=own.adjusted, simultaneous_low=low, simultaneous_high=high)
        return replace(contrast, asked=False, adjusted=None, simultaneous_low=None, simultaneous_high=None)

    cells = {
        key: cell if cell.contrast is None else replace(cell, contrast=judged(key, cell.contrast))
        for key, cell in grid.cells.items()
    }
    return replace(grid, cells=cells, family=answer.family)


def _answer(study: StudyConfig, scores: StudyScores | None) -> Answer:
    outcome, contrast = study.about.outcome, study.about.contrast
    if outcome is None or contrast is None:
        raise ValueError(f"{study.study} asks no question")
    answer = Answer(study.study, study.description, outcome, contrast, (), scores)
    if scores is None:
        return replace(answer, missing=_missing_columns(study, outcome, ()))
    missing: list[str] = []
    drafts: list[_Draft] = []
    columns = _asked_columns(scores, study, outcome)
    for regime, column in columns:
        found = list(_drafts(scores, contrast, regime, scores.columns[regime, column], missing))
        drafts += found
    drafts.sort(key=lambda draft: draft.kind == "baseline")
    contrasts = _judge(drafts)
    return replace(answer, contrasts=contrasts, missing=(*_missing_columns(study, outcome, columns), *missing))


def _asked_columns(scores: StudyScores, study: StudyConfig, outcome: OutcomeConfig) -> list[tuple[str, ResultColumn]]:
    """Regime and column of all results that answer the question, in the order of the study."""
    names = [Path(name).stem for name in _benchmarks(study, outcome)]
    listed = [column for _, column in scores.columns if column.task == outcome.task and _is_asked(column, outcome)]
    first: dict[str, ResultColumn] = {}
    for column in sorted(listed, key=lambda column: PROTOCOLS.index(column.protocol)):
        deciding = scores.deciding.get(column.benchmark)
        if outcome.task == "probe" and outcome.protocol is None and outcome.probe is None and deciding is not None:
            first[column.benchmark] = deciding
        else:
            first.setdefault(column.benchmark, column)
    chosen = [
        column
        for column in dict.fromkeys(listed)
        if column.benchmark in names
        and (column.protocol, column.probe) == (first[column.benchmark].protocol, first[column.benchmark].probe)
    ]
    regimes = [regime for regime in study.regimes if regime in scores.regimes]
    chosen.sort(key=lambda column: (names.index(column.benchmark), *_condition_order(column)))
    return [(regime, column) for column in chosen for regime in regimes if (regime, column) in scores.columns]


def _benchmarks(study: StudyConfig, outcome: OutcomeConfig) -> list[str]:
    """Benchmarks of the outcome as the study writes them, each once."""
    evaluated = [entry.benchmark for entry in study.evaluations if entry.task == outcome.task]
    return list(dict.fromkeys(outcome.benchmarks or evaluated))


def _is_asked(column: ResultColumn, outcome: OutcomeConfig) -> bool:
    """Whether a column of the task has the protocol, probe, metric and condition of the outcome."""
    if column.protocol != (outcome.protocol or column.protocol) or column.probe != (outcome.probe or column.probe):
        return False
    if outcome.task == "text" and column.metric not in (outcome.metric or RECALLS):
        return False
    if outcome.conditions:
        return outcome.covers(column.condition)
    return outcome.task != "robustness" or column.condition == MEAN


def _condition_order(column: ResultColumn) -> tuple[object, ...]:
    """Sort key of the conditions of a benchmark: metrics, then curves, each by its numbers."""
    metric = RECALLS.index(column.metric) if column.metric in RECALLS else len(RECALLS)
    return metric, curve_of(column), position_of(column)


def curve_of(column: ResultColumn) -> str:
    """The curve that the result of a condition is a point of: its condition without the number along the curve."""
    if column.task == "text":
        return ", ".join(part for part in column.condition.split(", ") if not part.startswith("dropout "))
    if column.task == "few_shot" and column.condition.endswith(("shot", "shots")):
        return "labels per class"
    return column.condition


def position_of(column: ResultColumn) -> float:
    """The number along the curve: the share of dropped frames, or the labels per class; 0 where there is none."""
    parts = column.condition.replace(", ", " ").split()
    after = {"text": "dropout", "few_shot": ""}.get(column.task)
    if after is None or curve_of(column) == column.condition:
        return 0.0
    return float(parts[parts.index(after) + 1] if after else parts[0])


@dataclass(frozen=True)
class _Draft:
    """A comparison before it is judged."""

    regime: str
    scores: ColumnScores
    kind: Kind
    name: str
    weights: Mapping[RowName, float]
    found: Comparison
    reference: str
    differs: tuple[str, ...]
    alone: tuple[str, ...]


def _drafts(
    study: StudyScores, contrast: ContrastConfig, regime: str, scores: ColumnScores, missing: list[str]
) -> Iterator[_Draft]:
    """The comparisons of a column; a line in ``missing`` for each that lacks results."""
    for kind, name, signed in _asked_weights(contrast):
        rows = {variant: _row_of(study, scores, variant) for variant in signed}
        if absent := [variant for variant, row in rows.items() if row is None]:
            missing.append(f"{name} on {scores.column} ({regime}): no results of {', '.join(absent)}")
            continue
        weights = {row: signed[variant] for variant, row in rows.items() if row is not None}
        if not set.intersection(*(set(scores.scores[row]) for row in weights)):
            missing.append(f"{name} on {scores.column} ({regime}): no seed that all its variants have")
            continue
        plus, minus = ([row for row, weight in weights.items() if sign * weight > 0] for sign in (1, -1))
        differs = _differs(study, regime, plus, minus)
        alone = () if differs or kind == "interaction" else _only_difference(study, regime, plus, minus)
        reference = list(contrast.groups)[1] if contrast.groups else ""
        found = _compared(scores, weights)
        yield _Draft(regime, scores, kind, name, weights, found, reference, differs, alone)
    if contrast.baseline:
        yield from _against_baseline(study, regime, scores, missing)


def _compared(scores: ColumnScores, weights: Mapping[RowName, float]) -> Comparison:
    """The contrast; a row against its baseline, in either direction, as the grid compares them."""
    if len(weights) == 2:
        (first, sign), (second, _) = weights.items()
        for row, reference, own in ((first, second, sign), (second, first, -sign)):
            if scores.reference_of(row) == reference and abs(own) == 1:
                found = scores.against(reference)[row]
                return found if own > 0 else -found
    return scores.contrast(weights)


def _asked_weights(contrast: ContrastConfig) -> Iterator[tuple[Kind, str, dict[str, float]]]:
    """Kind, name, and the weight of each variant, of each contrast of groups or factors.

    Of a 2 x 2 design the mean of each cell counts, however many variants it has.
    """
    if contrast.groups is not None:
        (first, plus), (second, minus) = contrast.groups.items()
        own = {**dict.fromkeys(plus, 1 / len(plus)), **dict.fromkeys(minus, -1 / len(minus))}
        yield "groups", f"{first} - {second}", own
    if contrast.factors is not None:
        cells = contrast.cells
        for index, factor in enumerate(contrast.factors):
            yield "main effect", factor, _of_cells({key: 0.5 if key[index] else -0.5 for key in cells}, cells)
        both = {key: 1.0 if key[0] == key[1] else -1.0 for key in cells}
        yield "interaction", " x ".join(contrast.factors), _of_cells(both, cells)


def _of_cells(
    weights: Mapping[tuple[bool, bool], float], cells: Mapping[tuple[bool, bool], tuple[str, ...]]
) -> dict[str, float]:
    return {name: weights[key] / len(names) for key, names in cells.items() for name in names}


def _row_of(study: StudyScores, scores: ColumnScores, variant: str) -> RowName | None:
    """The trained row of a variant as the study names it, of several phases the last one."""
    phases = study.names.phases
    for row in _trained(scores):
        stem = row[0].removesuffix(f".{phases[-1]}") if phases else row[0]
        if row_label(stem, row[1]) == variant and (not phases or stem != row[0]):
            return row
    return None


def _trained(scores: ColumnScores) -> list[RowName]:
    return [row for row in scores.scores if row[1] != UNTRAINED]


def _against_baseline(study: StudyScores, regime: str, scores: ColumnScores, missing: list[str]) -> Iterator[_Draft]:
    rows = [row for row in _trained(scores) if scores.names.reference(row[0]) is not None]
    for row in rows:
        reference = scores.reference_of(row)
        if reference is None:
            missing.append(f"{label(row)} on {scores.column} ({regime}): no results of its baseline")
            continue
        found = scores.against(reference)[row]
        differs = _differs(study, regime, [row], [reference])
        alone = () if differs else _only_difference(study, regime, [row], [reference])
        weights = {row: 1.0, reference: -1.0}
        yield _Draft(regime, scores, "baseline", label(row), weights, found, label(reference), differs, alone)


def _differs(study: StudyScores, regime: str, plus: Sequence[RowName], minus: Sequence[RowName]) -> tuple[str, ...]:
    """Settings beside the composition that differ between rows of both sides; none where the study asks for their
    effect: it declares its baseline, and the composition is the same.
    """
    found: dict[str, None] = {}
    for first, second in product(plus, minus):
        settings = study.differing(regime, first, second)
        beside = beside_composition(settings)
        if not (study.names.declared and beside == settings):
            found |= dict.fromkeys(beside)
    return tuple(found)


def _only_difference(
    study: StudyScores, regime: str, plus: Sequence[RowName], minus: Sequence[RowName]
) -> tuple[str, ...]:
    """The settings in which the rows of both sides differ pair by pair, if they can be paired so; else none."""
    if len(plus) != len(minus) or len(plus) > LARGEST_MATCHING:
        return ()
    differing = {(a, b): study.differing(regime, a, b) for a, b in product(plus, minus)}
    paired = ({differing[a, b] for a, b in zip(plus, order, strict=True)} for order in permutations(minus))
    return min((sets.pop() for sets in paired if len(sets) == 1), key=len, default=())


def _judge(drafts: Sequence[_Draft]) -> list[AskedContrast]:
    """All comparisons of a study as one family."""
    contrasts = judge_together(
        {number: draft.found for number, draft in enumerate(drafts)},
        {number: draft.scores.metric for number, draft in enumerate(drafts)},
    )
    family = sum(contrast.in_family for contrast in contrasts.values())
    asked = []
    for number, draft in enumerate(drafts):
        contrast = replace(contrasts[number], reference=draft.reference, differs=draft.differs)
        needed = None if contrast.significant else seeds_to_decide(draft.found, *_spread(draft), family)
        weights = {label(row): weight for row, weight in draft.weights.items()}
        asked.append(
            AskedContrast(
                draft.regime, draft.scores.column, draft.kind, draft.name, weights, contrast, draft.alone, needed
            )
        )
    return asked


def _spread(draft: _Draft) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]:
    """[S]: the difference in each common seed; and the number of clips."""
    rows = {row: draft.scores.scores[row] for row in draft.weights}
    seeds = sorted(set.intersection(*(set(scores) for scores in rows.values())))
    means = [sum(weight * float(rows[row][seed].mean()) for row, weight in draft.weights.items()) for seed in seeds]
    first = next(iter(rows.values()))
    return np.array(means), len(first[next(iter(first))])


def _missing_columns(
    study: StudyConfig, outcome: OutcomeConfig, columns: Sequence[tuple[str, ResultColumn]]
) -> tuple[str, ...]:
    """A line for each regime and benchmark of the outcome without any result."""
    known = {(regime, column.benchmark) for regime, column in columns}
    return tuple(
        f"no results of task {outcome.task} on {Path(name).stem} ({regime})"
        for name in _benchmarks(study, outcome)
        for regime in study.regimes
        if (regime, Path(name).stem) not in known
    )
