"""Robustness of each variant beside its baseline: corruption errors, retained accuracy, worst corruption."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.record import RobustnessResult
from hpc_jepa.evaluation.stats.accuracy import Estimate
from hpc_jepa.evaluation.stats.corruption import CorruptionMeasures, corruption_measures
from hpc_jepa.evaluation.tasks.robustness import CLEAN
from hpc_jepa.report.comparisons import ColumnScores, RowName, StudyScores, label
from hpc_jepa.report.results import ResultRow
from hpc_jepa.report.task_results import TaskSource

Place = tuple[str, str, str, str]
"""Regime, benchmark, protocol and probe."""


@dataclass(frozen=True)
class RobustnessRow:
    """A variant over ``seeds`` pretraining seeds that its ``reference`` has too.

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


def robustness_table(studies: Sequence[StudyScores], sources: Mapping[ResultRow, TaskSource]) -> list[RobustnessRow]:
    """One row per variant and probe with a baseline of the same study, regime, benchmark and protocol."""
    consistency = _consistency(sources)
    return [
        line
        for study in studies
        for place, conditions in _places(study).items()
        for line in _lines(study.study, place, conditions, consistency)
    ]


def _places(study: StudyScores) -> dict[Place, dict[str, ColumnScores]]:
    """Columns of the clean clips and of every corruption and severity, by condition."""
    found: dict[Place, dict[str, ColumnScores]] = {}
    for (regime, column), scores in study.columns.items():
        if column.task == "robustness" and (column.condition == CLEAN or ", severity " in column.condition):
            place = (regime, column.benchmark, column.protocol, column.probe)
            found.setdefault(place, {})[column.condition] = scores
    return {place: conditions for place, conditions in found.items() if CLEAN in conditions and len(conditions) > 1}


def _lines(
    study: str,
    place: Place,
    conditions: Mapping[str, ColumnScores],
    consistency: Mapping[tuple[object, ...], float],
) -> Iterator[RobustnessRow]:
    regime, benchmark, protocol, probe = place
    clean = conditions[CLEAN]
    corruptions = list(dict.fromkeys(name.partition(",")[0] for name in conditions if name != CLEAN))
    for row in clean.scores:
        reference = clean.reference_of(row) or row
        seeds = _common_seeds(conditions, row, reference)
        if not seeds:
            continue
        ours, theirs = (_by_corruption(conditions, corruptions, each, seeds) for each in (row, reference))
        measures = corruption_measures(ours, theirs, clean.clusters)
        worst = int(measures.lost.argmax())
        yield RobustnessRow(
            study=study,
            where=f"{benchmark}, {protocol}, {regime}",
            encoder=label(row),
            probe=probe,
            reference=label(reference),
            consistency=consistency[study, *place, row],
            seeds=len(seeds),
            worst=corruptions[worst],
            worst_loss=100 * float(measures.lost[worst]),
            clusters=None if clean.clusters is None else len(np.unique(clean.clusters)),
            **_numbers(measures, is_reference=reference == row),
        )


def _common_seeds(conditions: Mapping[str, ColumnScores], *rows: RowName) -> list[int]:
    """Seeds that all rows have under all conditions."""
    return sorted(set.intersection(*(set(each.scores.get(row, {})) for each in conditions.values() for row in rows)))


def _by_corruption(
    conditions: Mapping[str, ColumnScores], corruptions: Sequence[str], row: RowName, seeds: Sequence[int]
) -> NDArray[np.float64]:
    """[1 + C, S, n]: scores of the clean clips, and mean over severities under each corruption."""
    groups = [[CLEAN], *([name for name in conditions if name.startswith(f"{each}, ")] for each in corruptions)]
    return np.stack(
        [
            np.stack([np.mean([conditions[name].scores[row][seed] for name in names], axis=0) for seed in seeds])
            for names in groups
        ]
    )


def _numbers(measures: CorruptionMeasures, is_reference: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, factor in (("error", 1), ("relative", 1), ("retained", 100), ("retained_gain", 100)):
        found: Estimate | None = getattr(measures, name)
        fields[name] = None if found is None else factor * found.value
        if found is not None and not (is_reference and name != "retained"):
            fields |= {f"{name}_low": factor * found.low, f"{name}_high": factor * found.high}
    return fields


def _consistency(sources: Mapping[ResultRow, TaskSource]) -> dict[tuple[object, ...], float]:
    """By study, place and row, in percent."""
    kept: dict[tuple[object, ...], list[float]] = {}
    for row, source in sources.items():
        if isinstance(source.result, RobustnessResult) and source.result.severity and row.weights != "student":
            key = (row.study, row.regime, row.benchmark, row.protocol, row.probe, (row.variant, row.semantics))
            kept.setdefault(key, []).append(source.result.consistency)
    return {key: 100 * float(np.mean(values)) for key, values in kept.items()}
