"""Studies with simulated predictions: every cell of a study, with records written as the evaluation writes them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.evaluation.record import ProbeRecord, accuracy_fields, write_record
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import StudyCell, create_study_dir, expand_study

CLASSES = 8


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
    steps: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Step and number of steps of a run folder that is not finished."""

    def write(self, study: StudyConfig, cells: Iterable[StudyCell] | None = None) -> Path:
        """Write all cells of a study, or those given; returns the folder of the study."""
        folder = create_study_dir(study, self.root).path
        for cell in expand_study(study, self.root) if cells is None else cells:
            self.write_cell(cell)
        return folder

    def write_cell(self, cell: StudyCell) -> None:
        config = cell.config
        step, steps = self.steps.get(config.folder, (config.schedule.steps, config.schedule.steps))
        config.folder.mkdir(parents=True)
        (config.folder / "config.yaml").write_text(loading.dump_config(config))
        state = {"state": "done" if step == steps else "running", "step": step, "steps": steps}
        (config.folder / "state.json").write_text(json.dumps(state))
        for evaluation in cell.evaluations:
            self.write_record(config, evaluation.benchmark.name, evaluation.protocol, step, steps)

    def write_record(self, config: RunConfig, benchmark: str, protocol: str, step: int, steps: int) -> None:
        labels = np.arange(self.clips) % CLASSES
        predictions = {"labels": labels, "samples": np.arange(self.clips)}
        if self.clusters is not None:
            predictions["clusters"] = self.clusters
        share = self.accuracy(config, benchmark, protocol) + self._luck(config, benchmark)
        shares = {"target": share} | ({} if self.random_accuracy is None else {"random_init": self.random_accuracy})
        results = []
        for weights, probability in shares.items():
            right = self._answers(config, benchmark, weights) < probability
            predictions[f"{weights}.linear"] = np.where(right, labels, (labels + 1) % CLASSES)[None]
            facts = {"weights": weights, "probe": "linear", "pooling": "mean", "probe_seeds": (), "metric": "top1"}
            results.append({**facts, **accuracy_fields(right[None])})
        path = RunDir(config.folder).record_file(benchmark, protocol)
        facts = record_facts(config, benchmark, protocol, step, steps)
        write_record(ProbeRecord, path, {**facts, "results": tuple(results)}, predictions)

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


def record_facts(config: RunConfig, benchmark: str, protocol: str, step: int, steps: int) -> dict:
    """Fields of a record beside its results."""
    return {
        "run": {
            "study": config.study,
            "regime": config.regime,
            "variant": config.variant,
            "seed": config.seed,
            "semantics": config.semantics.preset,
            "overridden": config.semantics.overridden(),
            "switches": config.named_switches,
            "fingerprint": config.fingerprint(),
            "step": step,
            "steps": steps,
        },
        "benchmark": benchmark,
        "title": benchmark,
        "classes": CLASSES,
        "protocol": protocol,
        "protocol_fingerprint": "0123456789abcdef",
        "data": {"train": "a" * 64, "test": "b" * 64},
        "software": {"torch": "2.13.0"},
    }
