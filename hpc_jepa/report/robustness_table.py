"""Robustness of each variant beside its baseline, and of the groups that a study compares: corruption errors, retained
accuracy, worst corruption.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpc_jepa.evaluation.record import RobustnessResult
from hpc_jepa.evaluation.stats.accuracy import Estimate
from hpc_jepa.evaluation.stats.corruption import CorruptionMeasures
from hpc_jepa.report.comparisons import RowName, StudyScores, label
from hpc_jepa.report.corrupted_scores import CorruptedScores, Place, corrupted_scores
from hpc_jepa.report.corruption_answer import compared_groups
from hpc_jepa.report.questions import Answer
from hpc_jepa.report.results import ResultRow
from hpc_jepa.report.task_results import TaskSource

Consistency = Mapping[tuple[str, Place, RowName], float]
"""By study, place and row, in percent."""


@dataclass(frozen=True)
class RobustnessRow:
    """A variant or group of variants over ``seeds`` pretraining seeds that its ``reference`` has too.

    ``error``: mean corruption error relative to the reference, 1 is equal and less is better; ``relative``: of the
    losses by corruption alone; see ``evaluation/stats/corruption.py``. ``retained``: percent of the clean accuracy that
    is left; ``retained_gain``: more than the reference, in points. Each with its interval; None where it is not
    defined, and no interval of the reference itself. ``consistency``: percent of clips whose class does not change
    under corruption, mean over corruptions and severities. ``worst``: the corruption that costs most, ``worst_loss``
    points.
    """

    study: str
    where: str
    encoder: str
    probe: str
    error: float | None
    reference: str
    consistency: float
    seeds: int = 1
    error_low: float | None = None
    error_high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    retained: float | None = None
    retained_low: float | None = None
    retained_high: float | None = None
    retained_gain: float | None = None
    retained_gain_low: float | None = None
    retained_gain_high: float | None = None
    worst: str = ""
    worst_loss: float = 0.0
    clusters: int | None = None

    def text(self, name: str, decimals: int, sign: str = "") -> str:
        """A measure and its interval, as far as they are defined: ``0.970 [0.950, 0.990]``."""
        value, low, high = (getattr(self, each) for each in (name, f"{name}_low", f"{name}_high"))
        if value is None:
            return "undefined"
        text = f"{value:{sign}.{decimals}f}"
        return text if low is None or high is None else f"{text} [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"


@dataclass(frozen=True)
class _Side:
    """One or several rows that are measured as their mean."""

    name: str
    rows: Sequence[RowName]


def robustness_table(
    studies: Sequence[StudyScores], sources: Mapping[ResultRow, TaskSource], answers: Sequence[Answer] = ()
) -> list[RobustnessRow]:
    """One row per variant and probe with a baseline of the same study, regime, benchmark and protocol, after those of
    the groups that ``answers`` compare there.
    """
    consistency = _consistency(sources)
    by_study = {answer.study: answer for answer in answers}
    lines = []
    for study in studies:
        grouped = _groups(by_study[study.study]) if study.study in by_study else {}
        for place, scores in corrupted_scores(study).items():
            for ours, reference in (*grouped.get(place, ()), *_variants(scores)):
                measures = scores.measures(ours.rows, reference.rows)
                if measures is not None:
                    lines.append(_line(study.study, place, scores, ours, reference, measures, consistency))
    return lines


def _variants(scores: CorruptedScores) -> Iterator[tuple[_Side, _Side]]:
    """Each row with its baseline, which is its own."""
    for row in scores.clean.scores:
        reference = scores.clean.reference_of(row) or row
        yield _Side(label(row), [row]), _Side(label(reference), [reference])


def _groups(answer: Answer) -> dict[Place, list[tuple[_Side, _Side]]]:
    """Both groups of an answer with the second one as reference."""
    found = {}
    for place, sides, _ in compared_groups(answer):
        names = (f"{name} ({', '.join(variants)})" for name, variants in (answer.contrast.groups or {}).items())
        first, second = (_Side(name, rows) for name, rows in zip(names, sides, strict=True))
        found[place] = [(first, second), (second, second)]
    return found


def _line(
    study: str,
    place: Place,
    scores: CorruptedScores,
    ours: _Side,
    reference: _Side,
    measures: CorruptionMeasures,
    consistency: Consistency,
) -> RobustnessRow:
    regime, benchmark, protocol, probe = place
    clusters, worst = scores.clean.clusters, int(measures.lost.argmax())
    return RobustnessRow(
        study=study,
        where=f"{benchmark}, {protocol}, {regime}",
        encoder=ours.name,
        probe=probe,
        reference=reference.name,
        consistency=float(np.mean([consistency[study, place, row] for row in ours.rows])),
        seeds=len(scores.common_seeds([*ours.rows, *reference.rows])),
        worst=scores.corruptions[worst],
        worst_loss=100 * float(measures.lost[worst]),
        clusters=None if clusters is None else len(np.unique(clusters)),
        **_numbers(measures, is_reference=ours == reference),
    )


def _numbers(measures: CorruptionMeasures, is_reference: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, factor in (("error", 1), ("relative", 1), ("retained", 100), ("retained_gain", 100)):
        found: Estimate | None = getattr(measures, name)
        fields[name] = None if found is None else factor * found.value
        if found is not None and not (is_reference and name != "retained"):
            fields |= {f"{name}_low": factor * found.low, f"{name}_high": factor * found.high}
    return fields


def _consistency(sources: Mapping[ResultRow, TaskSource]) -> dict[tuple[str, Place, RowName], float]:
    kept: dict[tuple[str, Place, RowName], list[float]] = {}
    for row, source in sources.items():
        if isinstance(source.result, RobustnessResult) and source.result.severity and row.weights != "student":
            place = (row.regime, row.benchmark, row.protocol, row.probe)
            kept.setdefault((row.study, place, (row.variant, row.semantics)), []).append(source.result.consistency)
    return {key: 100 * float(np.mean(values)) for key, values in kept.items()}
