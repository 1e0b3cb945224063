"""Scores of the rows of a study on clean and corrupted clips, and the one measure of robustness that a report has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.corruption import CorruptionMeasures, corruption_measures
from hpc_jepa.evaluation.tasks.robustness import CLEAN
from hpc_jepa.report.comparisons import ColumnScores, RowName, StudyScores

Place = tuple[str, str, str, str]
"""Regime, benchmark, protocol and probe."""


@dataclass(frozen=True)
class CorruptedScores:
    """Of one place: ``conditions`` are the clean clips, and every corruption and severity."""

    conditions: Mapping[str, ColumnScores]

    @property
    def clean(self) -> ColumnScores:
        """Scores of the clean clips."""
        return self.conditions[CLEAN]

    @property
    def corruptions(self) -> list[str]:
        """Names of the corruptions."""
        return list(dict.fromkeys(name.partition(",")[0] for name in self.conditions if name != CLEAN))

    def common_seeds(self, rows: Sequence[RowName]) -> list[int]:
        """Seeds that all rows have under all conditions."""
        return sorted(
            set.intersection(*(set(each.scores.get(row, {})) for each in self.conditions.values() for row in rows))
        )

    def measures(self, rows: Sequence[RowName], references: Sequence[RowName]) -> CorruptionMeasures | None:
        """The mean of ``rows`` beside the mean of ``references``, over the seeds that all have; None without one."""
        seeds = self.common_seeds([*rows, *references])
        if not seeds:
            return None
        return corruption_measures(self._mean(rows, seeds), self._mean(references, seeds), self.clean.clusters)

    def _mean(self, rows: Sequence[RowName], seeds: Sequence[int]) -> NDArray[np.float64]:
        """[1 + C, S, n]: scores of the clean clips and under each corruption, mean over severities and rows."""
        groups = [[CLEAN], *([n for n in self.conditions if n.startswith(f"{each}, ")] for each in self.corruptions)]
        return np.stack(
            [
                [
                    np.mean([self.conditions[name].scores[row][seed] for name in names for row in rows], axis=0)
                    for seed in seeds
                ]
                for names in groups
            ]
        )


def corrupted_scores(study: StudyScores) -> dict[Place, CorruptedScores]:
    """Of every regime, benchmark, protocol and probe with clean and corrupted clips."""
    found: dict[Place, dict[str, ColumnScores]] = {}
    for (regime, column), scores in study.columns.items():
        if column.task == "robustness" and (column.condition == CLEAN or ", severity " in column.condition):
            place = (regime, column.benchmark, column.protocol, column.probe)
            found.setdefault(place, {})[column.condition] = scores
    return {
        place: CorruptedScores(conditions)
        for place, conditions in found.items()
        if CLEAN in conditions and len(conditions) > 1
    }
