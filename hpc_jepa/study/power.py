"""Seeds that a difference needs in a study, and their cost, from a pilot's records or a stated spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.planning import (
    DESIGNS,
    Design,
    FamilyTest,
    Spread,
    clips_needed,
    estimate_spread,
    power,
    seeds_needed,
)
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.comparisons import StudyComparisons
from hpc_jepa.study.forecast import forecast_study
from hpc_jepa.study.grid import expand_study


@dataclass(frozen=True)
class PlannedDesign:
    """What one difference needs in one design. ``difference`` and ``half_width`` (95 % interval) in points.

    ``seeds``: None if no number of seeds suffices on these clips; then ``clips`` says how many would.
    ``power``: that of the seeds in the study.
    """

    difference: float
    design: Design
    seeds: int | None
    runs: int | None
    gpu_hours: float | None
    clips: int | None
    power: float


@dataclass(frozen=True)
class PowerPlan:
    """All designs with what they assume. ``seeds``: those of the study."""

    spread: Spread
    test: FamilyTest
    target: float
    arms: int
    seeds: int
    gpu_hours_per_run: float | None
    designs: Sequence[PlannedDesign]


def plan_power(
    study: StudyConfig,
    cells: Sequence[StudyCell],
    cluster: ClusterConfig,
    spread: Spread,
    differences: Sequence[float],
    test: FamilyTest,
    target: float,
    step_seconds: float | None = None,
) -> PowerPlan:
    """Seeds and cost for each of ``differences`` (points) in every design."""
    hours = forecast_study(cells, cluster, step_seconds).gpu_hours
    per_run = None if hours is None or not cluster.train.gpus else hours / len(cells)
    arms, seeds = len({cell.arm for cell in cells}), max(len(study.seeds), 2)
    designs = []
    for difference in differences:
        for design in DESIGNS:
            found = seeds_needed(spread, design, difference / 100, test, target)
            runs = None if found is None else found * arms
            cost = None if runs is None or per_run is None else runs * per_run
            clips = clips_needed(spread, difference / 100, test, target) if found is None else None
            reached = power(spread, design, difference / 100, seeds, test)
            designs.append(PlannedDesign(difference, design, found, runs, cost, clips, reached))
    return PowerPlan(spread, test, target, arms, len(study.seeds), per_run, designs)


def family_size(study: StudyConfig, cells: Sequence[StudyCell]) -> int:
    """Comparisons of the study: variants against the baseline, by regime and deciding benchmark."""
    return len(_comparisons(study, cells).questions)


def pilot_spread(folder: Path) -> dict[str, Spread]:
    """Spread of the records of a study folder, by benchmark: the mean of its regimes.

    Raises InputError if the folder is no study, or has no two evaluated seeds of a variant and its baseline.
    """
    config = StudyDir(folder).config_file
    if not config.is_file():
        raise InputError(f"{folder}: not a study folder (no {config.name}); name RUNS/<study> of a study that ran")
    study = read_config(StudyConfig, [config])
    comparisons = _comparisons(study, expand_study(study, folder.parent))
    found = {}
    for benchmark in comparisons.evaluations:
        spreads = []
        for reference in dict.fromkeys(comparisons.references.values()):
            arms = [arm for arm, other in comparisons.references.items() if other == reference]
            scores, clusters = comparisons.scores(benchmark, [reference, *arms])
            base = scores.pop(reference, None)
            if base and scores:
                spreads.append(estimate_spread({str(arm): own for arm, own in scores.items()}, base, clusters))
        if spreads:
            found[benchmark] = _mean(spreads)
    if not found:
        raise InputError(f"{folder}: no variant and baseline were evaluated yet; run 'hpc-jepa study submit' first")
    return found


def _comparisons(study: StudyConfig, cells: Sequence[StudyCell]) -> StudyComparisons:
    decides = study.sequential.decides if study.sequential else ()
    names = study.probed
    return StudyComparisons.of(study, cells, decides or (names[:1] if study.sequential else names))


def _mean(spreads: Sequence[Spread]) -> Spread:
    """Root mean squares of errors, mean correlation."""
    clip_errors = [spread.clip_error or 0.0 for spread in spreads]
    return Spread(
        seeds=float(np.sqrt(np.mean([spread.seeds**2 for spread in spreads]))),
        correlation=float(np.mean([spread.correlation for spread in spreads])),
        clips=min(spread.clips for spread in spreads),
        clip_error=float(np.sqrt(np.mean(np.square(clip_errors)))),
    )
