"""Expand a study into its cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolName, Weights
from hpc_jepa.config.loading import dump_config, find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import EvaluationConfig, StudyConfig, VariantConfig
from hpc_jepa.errors import InputError


@dataclass(frozen=True)
class CellEvaluation:
    """One record that a cell is to have."""

    benchmark: BenchmarkConfig
    file: str
    protocol: ProtocolName
    weights: tuple[Weights, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Of the protocol, as records carry it."""
        return self.benchmark.protocols[self.protocol].fingerprint()

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows ``hpc-jepa evaluate RUN``."""
        weights = [word for name in self.weights for word in ("--weights", name)]
        return ("--benchmark", self.file, "--protocol", self.protocol, *weights)


@dataclass(frozen=True)
class StudyCell:
    """One run of the grid, the arguments of ``hpc-jepa train`` that make it, and how it is judged."""

    config: RunConfig
    arguments: tuple[str, ...]
    evaluations: tuple[CellEvaluation, ...]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder


def expand_study(study: StudyConfig, runs: Path) -> list[StudyCell]:
    """All cells of the grid.

    Raises InputError for an unknown regime, variant, benchmark or setting, and when two cells would share a folder.
    """
    cells = [
        cell for regime in study.regimes for variant in study.variants for cell in _cells(study, regime, variant, runs)
    ]
    _refuse_shared_folders(cells)
    return _with_evaluations(cells, [found for wanted in study.evaluations for found in _evaluations(wanted)])


def write_study_file(study: StudyConfig, runs: Path) -> Path:
    """Write ``RUNS/<study>/study.yaml``, so that the runs tell what they belong to; its path."""
    path = runs / study.study / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_config(study), encoding="utf-8")
    return path


def _cells(study: StudyConfig, regime: str, variant: VariantConfig, runs: Path) -> list[StudyCell]:
    """One cell for each seed. What a seed may be is checked with the study, so the rest is read and checked once."""
    seeds = variant.seeds or study.seeds
    layers = (str(find_config(regime, "regime")), str(find_config(variant.objective, "objective")))
    before = (f"study={study.study}", f"runs={runs}", f"semantics={variant.semantics}")
    config = read_config(RunConfig, layers, (*before, f"seed={seeds[0]}", *study.overrides))
    return [
        StudyCell(
            config.model_copy(update={"seed": seed}),
            (*layers, *before, f"seed={seed}", *study.overrides),
            (),
        )
        for seed in seeds
    ]


def _with_evaluations(cells: Sequence[StudyCell], evaluations: Sequence[CellEvaluation]) -> list[StudyCell]:
    """The cells with their evaluations. All runs of a regime and seed start from the same encoder: the random one of
    the first stands for all.
    """
    without_random = tuple(_without_random(evaluation) for evaluation in evaluations)
    judged, seen = [], set()
    for cell in cells:
        start = (cell.config.regime, cell.config.seed)
        judged.append(replace(cell, evaluations=without_random if start in seen else tuple(evaluations)))
        seen.add(start)
    return judged


def _evaluations(wanted: EvaluationConfig) -> list[CellEvaluation]:
    file = str(find_config(wanted.benchmark, "benchmark"))
    benchmark = read_config(BenchmarkConfig, [file])
    for protocol in wanted.protocols:
        if protocol not in benchmark.protocols:
            known = ", ".join(benchmark.protocols)
            raise InputError(f"evaluations: {wanted.benchmark} has no protocol '{protocol}'; it has {known}")
    return [CellEvaluation(benchmark, wanted.benchmark, protocol, wanted.weights) for protocol in wanted.protocols]


def _without_random(evaluation: CellEvaluation) -> CellEvaluation:
    trained = tuple(name for name in evaluation.weights if name != "random_init")
    return replace(evaluation, weights=trained or evaluation.weights)


def _refuse_shared_folders(cells: Sequence[StudyCell]) -> None:
    seen: set[Path] = set()
    for cell in cells:
        if cell.folder in seen:
            raise InputError(f"{cell.folder}: two cells of the study would write here; give each its own variant")
        seen.add(cell.folder)
