"""Comparisons of a study: variants against the baseline on its deciding benchmarks, with scores from the records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.record import ProbeRecord, read_predictions, read_record
from hpc_jepa.evaluation.stats.accuracy import PROPORTION, Scale
from hpc_jepa.evaluation.stats.blocked import Comparison, SeedScores, compare_with_reference
from hpc_jepa.evaluation.stats.metrics import METRICS, clip_scores, scale_of
from hpc_jepa.study.cell import CellEvaluation, StudyCell
from hpc_jepa.study.cell_evaluations import deciding_evaluations
from hpc_jepa.study.row_names import RowNames, row_names
from hpc_jepa.study.status import is_evaluated

WEIGHTS = "target"


@dataclass(frozen=True, order=True)
class Arm:
    """A variant in one regime, by the name of its folder."""

    regime: str
    variant: str

    @classmethod
    def of(cls, cell: StudyCell) -> "Arm":
        """The arm of a cell."""
        return cls(cell.config.regime, cell.folder.parent.name)

    def __str__(self) -> str:
        return f"{self.regime}/{self.variant}"


@dataclass(frozen=True, order=True)
class Question:
    """One comparison: an arm against the baseline of its regime on one benchmark."""

    arm: Arm
    benchmark: str

    def __str__(self) -> str:
        return f"{self.arm} on {self.benchmark}"


@dataclass(frozen=True)
class SeedResult:
    """Target weights of one run on one benchmark: [n] scores of the clips under the deciding metric, and their source.

    ``clusters``: equal numbers for clips of one source video; None if unknown.
    """

    path: Path
    checksum: str
    """SHA-256 of the predictions."""
    scores: NDArray[np.float64]
    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    clusters: NDArray[np.int64] | None


@dataclass(frozen=True)
class StudyComparisons:
    """All comparisons of a study. ``evaluations``: of each deciding benchmark its deciding protocol, as in a report:
    that which ``decides`` names, else the first of PROTOCOLS that the study has. The probe that ``decides`` names, else
    the first one, decides. ``names``: which variants are baselines.
    """

    cells: Sequence[StudyCell]
    evaluations: Mapping[str, CellEvaluation]
    names: RowNames = field(default_factory=RowNames)

    @classmethod
    def of(cls, study: StudyConfig, cells: Sequence[StudyCell], decides: Sequence[str]) -> "StudyComparisons":
        """Comparisons on the benchmarks ``decides``, named as in the evaluations of the study.

        Raises InputError if a variant has no baseline in its regime.
        """
        first = deciding_evaluations(cells[0].evaluations, decides)
        if numbers := [evaluation.file for evaluation in first if evaluation.benchmark.target is not None]:
            raise InputError(
                f"{study.study}: {numbers[0]} has a numeric target; looks and power are of accuracies, so set "
                "sequential.decides to other benchmarks"
            )
        found = cls(cells, {evaluation.benchmark.name: evaluation for evaluation in first}, row_names(study))
        if not found.questions:
            raise InputError(
                f"{study.study}: nothing to compare: no variant beside {found.names.baseline}, or no evaluation"
            )
        return found

    @cached_property
    def arms(self) -> dict[Arm, dict[int, StudyCell]]:
        """Cells of each arm by seed."""
        arms: dict[Arm, dict[int, StudyCell]] = {}
        for cell in self.cells:
            arms.setdefault(Arm.of(cell), {})[cell.config.seed] = cell
        return arms

    @cached_property
    def references(self) -> dict[Arm, Arm]:
        """The baseline that each other arm is compared with, of the same settings of the axes and the same phase: that
        of its semantics, else another of its regime.

        Raises InputError if there is none.
        """
        cells = {arm: next(iter(seeds.values())) for arm, seeds in self.arms.items()}
        targets = {arm: self.names.reference(cell.config.variant) for arm, cell in cells.items()}
        baselines = [arm for arm, cell in cells.items() if targets[arm] is None and _is_plain(cell)]
        references = {}
        for arm, cell in cells.items():
            if arm in baselines:
                continue
            target = targets[arm] or cell.config.variant
            candidates = [
                other for other in baselines if other.regime == arm.regime and cells[other].config.variant == target
            ]
            same = [other for other in candidates if _preset(cells[other]) == _preset(cell)]
            if not candidates:
                raise InputError(
                    f"{arm}: its regime has no variant {target} to compare it with; add one, or name another variant "
                    "under baseline: (overrides without name: are part of a name)"
                )
            references[arm] = (same or candidates)[0]
        return references

    @property
    def questions(self) -> list[Question]:
        """The family: every arm that is not a baseline, on every deciding benchmark."""
        return [Question(arm, benchmark) for arm in self.references for benchmark in self.evaluations]

    def probe(self, benchmark: str) -> str:
        """Name of the deciding probe: that of the study, else the first of the protocol."""
        return self.evaluations[benchmark].deciding_probe

    def column(self, benchmark: str) -> str:
        """Deciding protocol and probe of a benchmark, and its metric if it is not accuracy."""
        evaluation = self.evaluations[benchmark]
        metric = "" if evaluation.metric == "accuracy" else f", {METRICS[evaluation.metric].title}"
        return f"{evaluation.protocol}, {self.probe(benchmark)}{metric}"

    def compare(self, seeds: Mapping[Arm, Sequence[int]]) -> "Compared":
        """All comparisons with the given seeds of each arm; runs that are not evaluated are left out.

        Raises DataError if records are damaged or of different test clips.
        """
        compared = Compared({}, {})
        for benchmark, evaluation in self.evaluations.items():
            results = self._results(benchmark, evaluation, seeds)
            listed = [result for found in results.values() for result in found.values()]
            clusters, scale = _common_clusters(listed), _scale(evaluation, listed)
            for found in results.values():
                compared.checksums.update({result.path: result.checksum for result in found.values()})
            for reference in dict.fromkeys(self.references.values()):
                base = _scores(results.get(reference, {}))
                own = {
                    arm: scores
                    for arm, other in self.references.items()
                    if other == reference and (scores := _scores(results.get(arm, {})))
                }
                if base and own:
                    names = {str(arm): arm for arm in own}
                    variants = {name: own[arm] for name, arm in names.items()}
                    outcome = compare_with_reference(variants, base, clusters, scale)
                    compared.comparisons.update({Question(names[n], benchmark): c for n, c in outcome.items()})
        return compared

    def scores(self, benchmark: str, arms: Iterable[Arm]) -> tuple[dict[Arm, SeedScores], NDArray[np.int64] | None]:
        """Scores of all evaluated seeds of arms that have any, and the clusters of the clips."""
        found = self._results(benchmark, self.evaluations[benchmark], {arm: list(self.arms[arm]) for arm in arms})
        clusters = _common_clusters([result for results in found.values() for result in results.values()])
        return {arm: _scores(results) for arm, results in found.items() if results}, clusters

    def _results(
        self, benchmark: str, evaluation: CellEvaluation, seeds: Mapping[Arm, Sequence[int]]
    ) -> dict[Arm, dict[int, SeedResult]]:
        probe = self.probe(benchmark)
        return {
            arm: {
                seed: read_result(self.arms[arm][seed], evaluation, probe)
                for seed in chosen
                if is_evaluated(self.arms[arm][seed])
            }
            for arm, chosen in seeds.items()
        }


@dataclass(frozen=True)
class Compared:
    """Comparisons, and the records that they rest on with the checksums of their predictions."""

    comparisons: dict[Question, Comparison]
    checksums: dict[Path, str]


def read_result(cell: StudyCell, evaluation: CellEvaluation, probe: str) -> SeedResult:
    """Result of a run under one probe, of a run of looks after their prefix.

    Raises DataError if the record is damaged or lacks the probe.
    """
    path = cell.run.record_file(evaluation.benchmark.name, evaluation.protocol, step=cell.until)
    record = read_record(ProbeRecord, path)
    predictions = read_predictions(path, record)
    key = f"{WEIGHTS}.{probe}"
    absent = [name for name in ("labels", "samples", key) if name not in predictions]
    if absent:
        raise DataError(f"{path}: no '{absent[0]}' in its predictions; evaluate again: hpc-jepa evaluate --force")
    return SeedResult(
        path,
        record.predictions,
        clip_scores(evaluation.metric, predictions[key], predictions["labels"]),
        predictions["samples"],
        predictions["labels"],
        predictions.get("clusters"),
    )


def _scores(results: Mapping[int, SeedResult]) -> SeedScores:
    return {seed: result.scores for seed, result in results.items()}


def _scale(evaluation: CellEvaluation, results: Sequence[SeedResult]) -> Scale:
    return scale_of(evaluation.metric, results[0].labels) if results else PROPORTION


def _common_clusters(results: Sequence[SeedResult]) -> NDArray[np.int64] | None:
    """Clusters of the clips that all results share, from those that have them.

    Raises DataError naming two records of different test samples or clusters.
    """
    for name in ("samples", "labels", "clusters"):
        first: SeedResult | None = None
        for result in results:
            if name == "clusters" and result.clusters is None:
                continue
            first = first or result
            if not np.array_equal(getattr(result, name), getattr(first, name)):
                raise DataError(
                    f"{result.path} and {first.path} are not comparable: different test {name}; evaluate one of them "
                    "again with --force"
                )
    return next((result.clusters for result in results if result.clusters is not None), None)


def _preset(cell: StudyCell) -> str:
    return cell.config.semantics.preset


def _is_plain(cell: StudyCell) -> bool:
    return not cell.config.switches
