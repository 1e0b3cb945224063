"""Expand a study into its cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import EvaluationConfig, StudyConfig
from hpc_jepa.config.tree import dump, find_config, load
from hpc_jepa.errors import InputError
from hpc_jepa.objectives.registry import check_run


@dataclass(frozen=True)
class Cell:
    """One run of the grid, the arguments of ``hpc-jepa train`` that make it, and how it is judged."""

    config: RunConfig
    arguments: tuple[str, ...]
    evaluations: tuple[EvaluationConfig, ...]


def expand(study: StudyConfig, runs: Path) -> list[Cell]:
    """All cells, every configuration checked.

    Raises InputError for an unknown regime, variant or setting, and when two cells would share a folder.
    """
    cells = [
        replace(
            _cell(study, regime, objective=variant.objective, semantics=variant.semantics, seed=seed, runs=runs),
            evaluations=study.evaluations if number == 0 else tuple(_without_random(e) for e in study.evaluations),
        )
        for regime in study.regimes
        for seed in study.seeds
        for number, variant in enumerate(study.variants)
    ]
    _refuse_shared_folders(cells)
    return cells


def describe(study: StudyConfig, runs: Path) -> Path:
    """Write ``RUNS/<study>/study.yaml``, so that the runs tell what they belong to; its path."""
    path = runs / study.study / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(study), encoding="utf-8")
    return path


def _cell(study: StudyConfig, regime: str, *, objective: str, semantics: str, seed: int, runs: Path) -> Cell:
    layers = (str(find_config(regime, "regime")), str(find_config(objective, "objective")))
    overrides = (f"study={study.study}", f"runs={runs}", f"seed={seed}", f"semantics={semantics}", *study.overrides)
    config = load(RunConfig, layers, overrides)
    check_run(config)
    return Cell(config, (*layers, *overrides), study.evaluations)


def _without_random(evaluation: EvaluationConfig) -> EvaluationConfig:
    """All variants of a regime and seed start from the same encoder: the first one's evaluation stands for all."""
    trained = tuple(name for name in evaluation.weights if name != "random_init")
    return evaluation.model_copy(update={"weights": trained or evaluation.weights})


def _refuse_shared_folders(cells: Sequence[Cell]) -> None:
    seen: set[Path] = set()
    for cell in cells:
        if cell.config.folder in seen:
            raise InputError(
                f"{cell.config.folder}: two cells of the study would write here; give each its own variant"
            )
        seen.add(cell.config.folder)
