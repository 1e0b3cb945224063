"""One run of a study, and its evaluations."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc_jepa.config.benchmark import BenchmarkConfig, MetricName, ProtocolName, Task, Weights
from hpc_jepa.config.run import RunConfig
from hpc_jepa.runs.run_dir import RunDir, StudyDir

CellKey = tuple[str, str, int]
"""Regime, folder name of the variant, and seed."""


@dataclass(frozen=True)
class CellEvaluation:
    """One evaluation record of a cell: benchmark, its configuration file, protocol, task, and which weights.

    overrides: settings of the protocol that the study changes; ``benchmark`` has them. where: file, line and key in the
    study, for messages.
    every: also evaluate target weights of the checkpoints at multiples of this step count; None: only the last.
    decides: metric that the study compares by; None: that of the benchmark.
    probe: name of the probe that decides, if this protocol does; None: the first one.
    preferred: the study names this protocol as the one that decides.
    names_metric: the record names ``decides`` too; that of a run of another study does not.
    step: evaluate target weights of the checkpoint after this many steps instead.
    online: evaluate these while the run trains.
    """

    benchmark: BenchmarkConfig
    file: str
    protocol: ProtocolName
    weights: tuple[Weights, ...]
    every: int | None = None
    decides: MetricName | None = None
    step: int | None = None
    online: bool = False
    task: Task = "probe"
    overrides: tuple[str, ...] = ()
    where: str = field(default="", compare=False)
    probe: str | None = None
    preferred: bool = False
    names_metric: bool = True

    def __str__(self) -> str:
        task = "" if self.task == "probe" else f" {self.task}"
        return f"{self.benchmark.name}.{self.protocol}{task}"

    @property
    def facts(self) -> dict[str, Any]:
        """What is evaluated, for scripts."""
        return {
            "benchmark": self.benchmark.name,
            "protocol": self.protocol,
            "task": self.task,
            "overrides": self.overrides,
            "weights": self.weights,
        }

    @property
    def metric(self) -> MetricName:
        """The metric that decides."""
        return self.decides or self.benchmark.metric

    @property
    def deciding_probe(self) -> str:
        """Name of the probe that decides, if this protocol does."""
        return self.probe or next(iter(self.benchmark.protocols[self.protocol].probes))

    @cached_property
    def fingerprints(self) -> set[str]:
        """Fingerprints of the protocol for this task, one of which the record must have."""
        return self.benchmark.protocols[self.protocol].known_fingerprints(self.task)

    def record_file(self, run: RunDir, step: int | None = None) -> Path:
        """Its record in a run, of the last step, or of the checkpoint after ``step`` steps."""
        return run.record_file(self.benchmark.name, self.protocol, self.task, step)

    @property
    def commands(self) -> list[tuple[str, ...]]:
        """Arguments after ``hpc-jepa evaluate RUN`` of each command; the last one is of the last step."""
        if self.step is not None:
            return [(*self._common, "--weights", "target", "--step", str(self.step))]
        steps = [] if self.every is None else [self.steps_command]
        return [*steps, (*self._common, *(word for name in self.weights for word in ("--weights", name)))]

    @property
    def steps_command(self) -> tuple[str, ...]:
        """Arguments after ``hpc-jepa evaluate RUN`` that evaluate the checkpoints at multiples of ``every``."""
        return (*self._common, "--weights", "target", "--every", str(self.every))

    @property
    def _common(self) -> tuple[str, ...]:
        task = () if self.task == "probe" else ("--task", self.task)
        own = () if self.decides is None or not self.names_metric else (f"decides={self.decides}",)
        settings = (f"protocols.{self.protocol}.{override}" for override in self.overrides)
        return ("--benchmark", self.file, "--protocol", self.protocol, *task, *settings, *own)


@dataclass(frozen=True)
class StudyCell:
    """One run of the grid, its arguments of ``hpc-jepa train``, and its evaluations.

    after: folder of the run of an earlier phase whose last checkpoint it begins with.
    until: it is trained for this many steps only, the prefix that the looks of a sequential study compare.
    reused: it is a run of another study; ``config`` and ``arguments`` are those of that study.
    """

    config: RunConfig
    arguments: tuple[str, ...]
    evaluations: tuple[CellEvaluation, ...]
    after: Path | None = None
    until: int | None = None
    reused: bool = False

    @property
    def owner(self) -> StudyDir:
        """The study that the run belongs to."""
        return StudyDir(self.config.runs / self.config.study)

    @property
    def reused_from(self) -> str | None:
        """Name of the other study that the run belongs to, if it does."""
        return self.config.study if self.reused else None

    @property
    def key(self) -> CellKey:
        """What the run has in common with that of another study: regime, folder of the variant, seed."""
        return self.config.regime, self.folder.parent.name, self.config.seed

    @property
    def steps(self) -> int:
        """Steps that it is trained for."""
        return self.config.schedule.steps if self.until is None else self.until

    @property
    def is_trained(self) -> bool:
        """Whether all steps are done. Raises DataError if a file of the run is damaged."""
        return is_trained(self.run, self.until)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder

    @property
    def arm(self) -> str:
        """``<regime>/<variant>``: all cells of an arm differ in their seed alone."""
        return f"{self.config.regime}/{self.folder.parent.name}"

    @cached_property
    def run(self) -> RunDir:
        """Contents of the run folder."""
        return RunDir(self.folder)

    @property
    def online(self) -> CellEvaluation | None:
        """The evaluation of its checkpoints while it trains, if the study has one."""
        return next((evaluation for evaluation in self.evaluations if evaluation.online), None)

    @property
    def waits(self) -> bool:
        """Whether the run that it begins after is not done. Raises DataError if a file of that run is damaged."""
        return waits_for(self.run, self.after)


def is_trained(run: RunDir, until: int | None) -> bool:
    """Whether all steps of a run are done, or those until a pause. Raises DataError if a file of it is damaged."""
    state = run.state
    if state is None:
        return False
    paused = until is not None and state.state == "interrupted" and (state.step or 0) >= until
    return state.state == "done" or paused


def waits_for(run: RunDir, after: Path | None) -> bool:
    """Whether a run has not begun, and the run ``after`` which it begins is not done.

    Raises DataError if a file of that run is damaged.
    """
    if after is None or run.checkpoint_dirs():
        return False
    state = RunDir(after).state
    return state is None or state.state != "done"
