"""Studies that ask a question, with simulated records of every task whose true effects are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from simulated_records import write_answers, write_few_shot, write_robustness, write_run, write_text

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.study.grid import create_study_dir, expand_study

CLIPS = 600
CLASSES = 8
DRAWS = 5
CORRUPTIONS = ("gaussian_noise", "fog", "reversal")
FWM = {"static_weight": 0.05, "orthogonality_weight": 0.01, "appearance_ratio": 0.5}
BOTH = {
    "objective": "fwm_ld",
    "name": "fwm_ltc",
    "overrides": [f"objectives=[{{fwm: {FWM}}}, {{ltc: {{weight: 0.5, margin: 0.5}}}}]".replace("'", "")],
}


def asking(
    contrast: Mapping[str, Any],
    task: str = "probe",
    variants: tuple[Any, ...] = ("baseline", "ld", "fwm_ld"),
    seeds: tuple[int, ...] = (0, 1, 2),
    benchmarks: tuple[str, ...] = ("motion8_linear",),
    regimes: tuple[str, ...] = ("quickstart",),
    **outcome: Any,
) -> StudyConfig:
    """A study that asks one question."""
    evaluations = [{"benchmark": name, "task": task, "weights": ["target"]} for name in benchmarks]
    about = {"question": "Which one?", "outcome": {"task": task, **outcome}, "contrast": contrast}
    fields = {"variants": variants, "seeds": seeds, "evaluations": evaluations, "about": about, "regimes": regimes}
    return StudyConfig.model_validate({"study": "asked", **fields})


Accuracy = Callable[[RunConfig, Any], float]


@dataclass
class AskedStudy:
    """``accuracy(config, condition)``: share of right answers of a run under a condition of the task, which is a
    benchmark (probes), a number of labels or "episodes", a corruption, or a share of dropped frames.

    Runs of a seed share their luck of ``shared``; each has its own of ``own``. Half of the clips are equally difficult
    for all runs. ``salt``: of another simulation.
    """

    root: Path
    accuracy: Accuracy
    own: float = 0.01
    shared: float = 0.02
    salt: int = 0

    def write(self, study: StudyConfig) -> Path:
        """All records of a study; returns its folder."""
        folder = create_study_dir(study, self.root).path
        for cell in expand_study(study, self.root):
            write_run(cell.config, "done")
            for evaluation in cell.evaluations:
                writer = {"probe": self._probe, "few_shot": self._few_shot, "robustness": self._robustness}
                task = study.about.outcome.task if study.about.outcome else "probe"
                writer.get(task, self._text)(cell.config, evaluation.benchmark.name)
        return folder

    def right(self, config: RunConfig, condition: Any, part: str = "", shape: tuple[int, ...] = ()) -> np.ndarray:
        """[*shape, CLIPS]: which clips are right."""
        run, where = list(config.variant.encode()), list(f"{condition}{part}{config.regime}".encode())
        luck = np.random.default_rng([self.salt, 1, config.seed]).normal(0, self.shared)
        luck += np.random.default_rng([self.salt, 2, config.seed, *run]).normal(0, self.own)
        clip = np.random.default_rng([self.salt, 3]).random(CLIPS)
        own = np.random.default_rng([self.salt, 4, config.seed, *run, *where]).random((*shape, CLIPS))
        chosen = np.random.default_rng([self.salt, 5]).random(CLIPS) < 0.5
        return np.where(chosen, clip, own) < self.accuracy(config, condition) + luck

    def _probe(self, config: RunConfig, benchmark: str) -> None:
        write_answers(config, benchmark, "standard", {("target", "linear_tubelets"): self.right(config, benchmark)})

    def _few_shot(self, config: RunConfig, benchmark: str) -> None:
        draws = {("target", shots): self.right(config, shots, shape=(DRAWS,)) for shots in (1, 5, 20)}
        counts = self.right(config, "episodes", shape=(75,))[:, :200].sum(axis=0)
        write_few_shot(config, benchmark, "standard", draws, {("target", 5, 1): counts})

    def _robustness(self, config: RunConfig, benchmark: str) -> None:
        answers = {("target", "linear_tubelets", "clean", 0): self.right(config, "clean")}
        for name in CORRUPTIONS:
            for severity in (1, 2):
                answers["target", "linear_tubelets", name, severity] = self.right(config, name, str(severity))
        write_robustness(config, benchmark, "standard", answers)

    def _text(self, config: RunConfig, benchmark: str) -> None:
        answers = {}
        for dropout in (0.0, 0.5, 0.875):
            for direction in ("video_to_text", "text_to_video"):
                right = self.right(config, dropout, direction)
                answers["target", direction, dropout] = np.where(right, 0, 20)
            answers["target", "class_names", dropout] = self.right(config, dropout, "class_names")
        write_text(config, benchmark, "standard", answers)
