"""Study folders like those of training and evaluation, with chosen accuracies."""

import json
from pathlib import Path

import numpy as np
import pytest
from simulated_records import write_answers, write_few_shot, write_robustness, write_run

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig

CLIPS, CLASSES = 1000, 8
TITLE = "Synthetic motion"


class StudyWriter:
    """Writes runs below ``root`` that share labels and test clips."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.labels = np.arange(CLIPS) % CLASSES

    def run(
        self, variant="baseline", semantics="corrected", seed=0, state="done", regime="quickstart", switches=None
    ) -> Path:
        """``switches``: of semantics, beside the preset; the run is named after them."""
        config = RunConfig.model_validate(
            {
                "study": "demo",
                "regime": regime,
                "variant": variant,
                "seed": seed,
                "runs": str(self.root),
                "semantics": {"preset": semantics, "mask_truncation": "tubes", **(switches or {})},
                "switches": tuple(switches or ()),
                "data": {"sources": {"gone": {"shards": str(self.root / "no-shards")}}},
                "schedule": {"steps": 500},
            }
        )
        write_run(config, state, passes={"gone": 12.345})
        lines = [self._line(step, auxiliary=variant != "baseline") for step in range(0, 500, 10)]
        (config.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return config.folder

    def evaluated(
        self, run: Path, accuracies: dict[str, dict[str, float]], salt=0, benchmark="motion8", clusters=None, **facts
    ) -> Path:
        """``accuracies``: weights -> probe -> share of correctly classified clips. ``clusters``: [CLIPS]."""
        config = loading.read_config(RunConfig, [run / "config.yaml"])
        answers, drawn = {}, 2 if clusters is None else 3
        for weights, probes in accuracies.items():
            for probe, share in probes.items():
                rng = np.random.default_rng([config.seed, salt, drawn])
                drawn += 1
                right = [rng.permutation(CLIPS) < round(share * CLIPS) for _ in range(3 if probe == "attentive" else 1)]
                answers[weights, probe] = np.stack(right)
        facts = {"title": TITLE, **facts}
        return write_answers(config, benchmark, "standard", answers, clusters, self.labels, **facts)

    def few_shot(self, run: Path, curve: dict[int, float], **facts) -> Path:
        """``curve``: labels per class -> accuracy of the target weights. ``facts``: other fields of the record."""
        config = loading.read_config(RunConfig, [run / "config.yaml"])
        right = {shots: np.arange(CLIPS) < share * CLIPS for shots, share in curve.items()}
        draws = {("target", shots): np.tile(clips, (2, 1)) for shots, clips in right.items()}
        return write_few_shot(config, "motion8", "standard", draws, labels=self.labels, **{"title": TITLE, **facts})

    def robustness(self, run: Path, clean: float, damaged: tuple[float, ...]) -> Path:
        """``damaged``: accuracies of the target weights under noise, by severity."""
        config = loading.read_config(RunConfig, [run / "config.yaml"])
        answers = {
            ("target", "linear", "noise" if severity else "clean", severity): np.arange(CLIPS) < share * CLIPS
            for severity, share in enumerate((clean, *damaged))
        }
        return write_robustness(config, "motion8", "standard", answers, labels=self.labels, title=TITLE)

    def _line(self, step: int, auxiliary: bool) -> dict:
        terms = {"prediction": 0.4 + 0.4 * np.exp(-step / 120), "context": 0.3 + 0.2 * np.exp(-step / 200)}
        terms |= {"ld": 0.2 + 0.5 * np.exp(-step / 60)} if auxiliary else {}
        health = {"target_std": 0.58 - step / 5000, "effective_rank": 64 * np.exp(-step / 400) + 8}
        line = {"step": step, "time": 0.0, "loss": sum(terms.values()), "terms": terms, "learning_rate": 1e-3}
        return line | ({"health": health} if step % 50 == 0 else {})


@pytest.fixture(scope="session")
def writer() -> type[StudyWriter]:
    return StudyWriter


@pytest.fixture
def write(tmp_path) -> StudyWriter:
    return StudyWriter(tmp_path / "runs")


@pytest.fixture
def study(write) -> Path:
    """Random at 24 % linear and 95 % attentive; only the corrected auxiliary variant is above it."""
    baseline = write.run("baseline")
    published = write.run("fwm_hw_ld", "published")
    corrected = write.run("fwm_hw_ld", "corrected")
    random = {"random_init": {"linear": 0.242, "attentive": 0.949}}
    write.evaluated(baseline, {**random, "target": {"linear": 0.235, "attentive": 0.92}}, salt=1)
    write.evaluated(published, {"target": {"linear": 0.24, "attentive": 0.91}}, salt=2)
    write.evaluated(corrected, {"target": {"linear": 0.464, "attentive": 0.905}}, salt=3)
    return write.root / "demo"
