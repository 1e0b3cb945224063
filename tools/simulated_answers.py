"""Simulated answers of studies that ask a question, of every task and with a known truth, as the report collects them.

The probability of a right answer is linear in its parts, so that the true difference of two variants is that of their
gains: luck of the seed (shared by all variants), of the run, of the run under a condition and, with few labels, of the
draw; and the effect of a variant on a video. Half of the clips are answered alike by all runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import Task
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.evaluation.conditions import MEAN, planned_conditions
from hpc_jepa.evaluation.tasks.robustness import CLEAN
from hpc_jepa.report.comparisons import StudyScores, collect_scores
from hpc_jepa.report.predictions import Answers
from hpc_jepa.report.results import ResultRow
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.task_results import TaskAnswers
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.cell import CellEvaluation
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.row_names import row_names

CLASSES = 8
QUERIES = 75
FURTHER_RANKS = {"R@1": 0.0, "R@5": 0.15, "R@10": 0.25}
"""How many more queries than at R@1 have their answer among the first so many."""
PER_SEVERITY = 0.04
"""Accuracy that one severity costs."""

Right = NDArray[np.bool_]
Gain = Callable[[RunConfig], float]


@dataclass(frozen=True)
class Luck:
    """Standard deviations of an accuracy between seeds, and what is drawn: ``clips`` of ``clips_per_video``."""

    seed: float = 0.02
    run: float = 0.015
    condition: float = 0.005
    draw: float = 0.02
    video: float = 0.05
    accuracy: float = 0.4
    clips: int = 300
    clips_per_video: int = 3
    draws: int = 5
    episodes: int = 100


class SimulatedAnswers:
    """A study whose answers are drawn again and again. ``gain``: of a run, the same under all conditions."""

    def __init__(self, study: StudyConfig, gain: Gain, luck: Luck = Luck()) -> None:
        self.study, self.gain, self.luck = study, gain, luck
        self.cells = expand_study(study, Path("simulated"))
        self.runs = [RunReport(RunDir(cell.config.folder), cell.config, None, (), {}) for cell in self.cells]

    def draw(self, rng: np.random.Generator) -> StudyScores:
        """The scores of all runs."""
        probes: dict[ResultRow, Answers] = {}
        tasks: dict[ResultRow, TaskAnswers] = {}
        clips = _Clips(self.luck, rng)
        shared = {(cell.config.regime, cell.config.seed): rng.normal(0, self.luck.seed) for cell in self.cells}
        by_draw = rng.normal(0, self.luck.draw, self.luck.draws)
        for cell in self.cells:
            config = cell.config
            level = self.luck.accuracy + self.gain(config) + shared[config.regime, config.seed]
            run = _Run(config, level + rng.normal(0, self.luck.run), clips, by_draw, rng)
            for evaluation in cell.evaluations:
                if evaluation.task == "probe":
                    probes |= run.probe(evaluation)
                else:
                    tasks |= run.task(evaluation)
        videos = dict.fromkeys(probes, clips.videos)
        (found,) = collect_scores(probes, videos, self.runs, {self.study.study: row_names(self.study)}, {}, tasks)
        return found


class _Clips:
    """Test clips of one draw of a study."""

    def __init__(self, luck: Luck, rng: np.random.Generator) -> None:
        self.luck = luck
        self.videos = np.arange(luck.clips) // luck.clips_per_video
        self.labels = np.arange(luck.clips) % CLASSES
        self.alike = rng.random(luck.clips) < 0.5
        self.threshold = rng.random(luck.clips)
        self.episodes = rng.normal(0, 0.05, luck.episodes)
        self._effects: dict[str, NDArray[np.float64]] = {}
        self._rng = np.random.default_rng(rng.integers(2**32))

    def effect(self, variant: str) -> NDArray[np.float64]:
        """[n]: what a variant adds on each video, on average nothing."""
        if variant not in self._effects:
            by_video = self._rng.normal(0, self.luck.video, self.videos.max() + 1)
            self._effects[variant] = by_video[self.videos]
        return self._effects[variant]


@dataclass(frozen=True)
class _Run:
    """A run with the accuracy ``level``."""

    config: RunConfig
    level: float
    clips: _Clips
    by_draw: NDArray[np.float64]
    rng: np.random.Generator

    def probe(self, evaluation: CellEvaluation) -> dict[ResultRow, Answers]:
        """Answers of the first probe."""
        probe = next(iter(evaluation.benchmark.protocols[evaluation.protocol].probes))
        labels = self.clips.labels
        predicted = np.where(self.right(self.luck()), labels, (labels + 1) % CLASSES)
        return {self.row(evaluation, "probe", probe, ""): Answers(predicted[None], labels)}

    def task(self, evaluation: CellEvaluation) -> dict[ResultRow, TaskAnswers]:
        """Answers under all conditions of a further task."""
        protocol = evaluation.benchmark.protocols[evaluation.protocol]
        conditions = [name for name in planned_conditions(evaluation.task, protocol) if name != MEAN]
        answers = {"few_shot": self._few_shot, "robustness": self._robustness, "text": self._text}[evaluation.task]
        probe = next(iter(protocol.probes)) if evaluation.task == "robustness" else ""
        return {
            self.row(evaluation, evaluation.task, probe, condition, metric): found
            for condition, metric, found in answers(conditions)
        }

    def row(
        self, evaluation: CellEvaluation, task: Task, probe: str, condition: str, metric: str = "top1"
    ) -> ResultRow:
        """The row of a result; its own value and interval are not used."""
        config = self.config
        return ResultRow(
            study=config.study,
            regime=config.regime,
            variant=config.variant,
            semantics=config.semantics_name,
            seed=config.seed,
            weights="target",
            benchmark=evaluation.benchmark.name,
            protocol=evaluation.protocol,
            probe=probe,
            metric=metric,
            value=100 * self.level,
            low=0.0,
            high=100.0,
            n=self.clips.luck.clips,
            steps=config.schedule.steps,
            task=task,
            condition=condition,
        )

    def luck(self) -> float:
        """The accuracy under a condition."""
        return self.level + self.rng.normal(0, self.clips.luck.condition)

    def margin(self) -> NDArray[np.float64]:
        """[n]: how far each clip is from being right at accuracy zero, anew for half of the clips."""
        own = self.rng.random(self.clips.luck.clips)
        return self.clips.effect(self.config.variant) - np.where(self.clips.alike, self.clips.threshold, own)

    def right(self, accuracy: float) -> Right:
        """[n]: which clips are right."""
        return np.asarray(self.margin() + accuracy > 0)

    def _few_shot(self, conditions: Sequence[str]) -> Iterator[tuple[str, str, TaskAnswers]]:
        own = self.by_draw + self.rng.normal(0, self.clips.luck.draw / 2, len(self.by_draw))
        for condition in conditions:
            accuracy = self.luck()
            if condition.endswith("episodes"):
                chance = np.clip(accuracy + self.clips.episodes, 0, 1)
                counts = self.rng.binomial(QUERIES, chance)
                yield condition, "top1", TaskAnswers(counts[None], QUERIES, counted="episodes")
            else:
                right = np.stack([self.right(accuracy + luck) for luck in own])
                yield condition, "top1", self._of_clips(right)

    def _robustness(self, conditions: Sequence[str]) -> Iterator[tuple[str, str, TaskAnswers]]:
        shares: dict[str, list[Right]] = {}
        for condition in conditions:
            name, _, severity = condition.partition(", severity ")
            right = self.right(self.luck() + 2 * PER_SEVERITY - PER_SEVERITY * int(severity or 0))
            if condition != CLEAN:
                shares.setdefault(name, []).append(right)
            yield condition, "top1", self._of_clips(right[None])
        mean = np.mean([np.mean(each, axis=0) for each in shares.values()], axis=0)
        yield MEAN, "top1", self._of_clips(mean[None])

    def _text(self, conditions: Sequence[str]) -> Iterator[tuple[str, str, TaskAnswers]]:
        for condition in conditions:
            margin = self.margin() + self.luck()
            metrics = {"top1": 0.0} if condition.startswith("class_names") else FURTHER_RANKS
            for metric, further in metrics.items():
                yield condition, metric, replace(self._of_clips(margin[None] + further > 0), labels=None)

    def _of_clips(self, counts: NDArray[np.generic]) -> TaskAnswers:
        return TaskAnswers(counts, 1, self.clips.labels, self.clips.videos)


def planted(study: StudyConfig, gain: float) -> Gain:
    """A gain of the first group of the question; of a 2 x 2 design of the variants that have both factors."""
    contrast = study.about.contrast
    if contrast is None:
        raise ValueError(f"{study.study} asks no question")
    better = next(iter(contrast.groups.values())) if contrast.groups else contrast.cells[True, True]
    rows: Mapping[str, float] = dict.fromkeys(better, gain)
    return lambda config: rows.get(config.variant, 0.0)
