"""Studies with simulated predictions: every cell of a study, with records written as the evaluation writes them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from simulated_records import record_facts, write_answers, write_run

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.grid import create_study_dir, expand_study


@dataclass
class SimulatedStudy:
    """``accuracy``: share of right answers of a cell on a benchmark and protocol. The same clips are difficult for all
    cells, and all cells of a seed share their luck of ``seed_spread``; ``own_spread`` is that of each run.
    """

    root: Path
    accuracy: Callable[[RunConfig, str, str], float]
    clips: int = 200
    seed_spread: float = 0.02
    own_spread: float = 0.01
    random_accuracy: float | None = 0.125
    clusters: np.ndarray | None = None
    steps: dict[Path, int] = field(default_factory=dict)
    """Step of a run folder that is not finished."""

    def write(self, study: StudyConfig, cells: Iterable[StudyCell] | None = None) -> Path:
        """Write all cells of a study, or those given; returns the folder of the study."""
        folder = create_study_dir(study, self.root).path
        for cell in expand_study(study, self.root) if cells is None else cells:
            self.write_cell(cell)
        return folder

    def write_cell(self, cell: StudyCell) -> None:
        config, step = cell.config, self.steps.get(cell.folder)
        write_run(config, "done" if step is None else "running", step)
        for evaluation in cell.evaluations:
            self.write_record(config, evaluation.benchmark.name, evaluation.protocol, step)

    def write_record(self, config: RunConfig, benchmark: str, protocol: str, step: int | None) -> None:
        share = self.accuracy(config, benchmark, protocol) + self._luck(config, benchmark)
        shares = {"target": share} | ({} if self.random_accuracy is None else {"random_init": self.random_accuracy})
        answers = {
            (weights, "linear"): self._answers(config, benchmark, weights) < probability
            for weights, probability in shares.items()
        }
        run = record_facts(config, benchmark, protocol, step)["run"]
        write_answers(config, benchmark, protocol, answers, self.clusters, run=run)

    def _luck(self, config: RunConfig, benchmark: str) -> float:
        shared = np.random.default_rng([config.seed, len(benchmark)]).normal(0, self.seed_spread)
        name = f"{config.variant}{config.semantics_name}{config.regime}{benchmark}".encode()
        return float(shared + np.random.default_rng([config.seed, *name]).normal(0, self.own_spread))

    def _answers(self, config: RunConfig, benchmark: str, weights: str) -> np.ndarray:
        """[n] in [0, 1]: a clip is right if its number is below the accuracy. Half of them are the same in all runs."""
        name = f"{config.variant}{config.semantics_name}{config.regime}{benchmark}{weights}".encode()
        clip = np.random.default_rng(list(benchmark.encode())).random(self.clips)
        own = np.random.default_rng([config.seed, *name]).random(self.clips)
        return np.where(np.random.default_rng([config.seed, 1, *name]).random(self.clips) < 0.5, clip, own)
