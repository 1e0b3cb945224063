"""Runs that several studies share: each study reports the records that it evaluates, as those of a run of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from hpc_jepa.config.benchmark import MetricName, Task, Weights
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.record import AnyRecord, BaseRecord, Record
from hpc_jepa.runs.run_dir import RunDir, StudyDir
from hpc_jepa.study.cell_evaluations import study_evaluations
from hpc_jepa.study.grid import expand_study

RecordKey = tuple[str, str, Task]
"""Benchmark, protocol and task of a record."""


@dataclass(frozen=True)
class Evaluated:
    """What a study evaluates.

    weights: by benchmark, protocol and task. every: steps between the checkpoints that are evaluated, where they are.
    decides: metric to compare by, where it is named.
    """

    weights: Mapping[RecordKey, frozenset[Weights]] = field(default_factory=dict)
    every: Mapping[RecordKey, int] = field(default_factory=dict)
    decides: Mapping[RecordKey, MetricName | None] = field(default_factory=dict)

    @classmethod
    def by(cls, study: StudyConfig) -> "Evaluated":
        """As the configuration of a study says. Raises InputError for an evaluation that cannot be."""
        weights: dict[RecordKey, frozenset[Weights]] = {}
        every: dict[RecordKey, int] = {}
        decides: dict[RecordKey, MetricName | None] = {}
        for each in study_evaluations(study):
            key = (each.benchmark.name, each.protocol, each.task)
            weights[key] = weights.get(key, frozenset()) | {*each.weights}
            decides[key] = each.decides or each.benchmark.decides
            if each.every is not None:
                every[key] = each.every
        return cls(weights, every, decides)


@dataclass(frozen=True)
class ReusedRuns:
    """Runs of other studies that a study uses, and what it evaluates. ``runs``: their folders by the resolved ones."""

    study: StudyDir
    name: str
    runs: Mapping[Path, Path]
    asked: Evaluated

    def records(self, records: Mapping[Path, Record]) -> dict[Path, Record]:
        """The records of a run that the study evaluates, as records of a run of its own, with its weights alone."""
        own = {path: self._own(record) for path, record in records.items() if _key(record) in self.asked.weights}
        return {path: record for path, record in own.items() if record is not None}

    def step_records(self, records: Mapping[Path, Record]) -> dict[Path, Record]:
        """The same of records of chosen steps."""
        every = {path: self.asked.every.get(_key(record)) for path, record in records.items()}
        return self.records({path: r for path, r in records.items() if (n := every[path]) and r.run.step % n == 0})

    def _own(self, record: Record) -> Record | None:
        recorded = cast(AnyRecord, record).results
        results = tuple(result for result in recorded if result.weights in self.asked.weights[_key(record)])
        run = record.run.model_copy(update={"study": self.name})
        own = {"run": run, "results": results, "decides": self.asked.decides[_key(record)]}
        return record.model_copy(update=own) if results else None


@dataclass(frozen=True)
class OwnRun:
    """A run of the study itself, without the records that only studies which reuse it evaluate.

    Such records of some runs would be gaps of the others, and their benchmarks would count among the comparisons.
    """

    of_others: frozenset[RecordKey] = frozenset()
    steps_of_others: frozenset[RecordKey] = frozenset()

    def records(self, records: Mapping[Path, Record]) -> dict[Path, Record]:
        """The records of the last step that count for the study."""
        return {path: record for path, record in records.items() if _key(record) not in self.of_others}

    def step_records(self, records: Mapping[Path, Record]) -> dict[Path, Record]:
        """The same of records of chosen steps."""
        return {path: record for path, record in records.items() if _key(record) not in self.steps_of_others}


def reused_runs(place: Path) -> list[ReusedRuns]:
    """Of each study in a folder, or of the studies below it: the runs of other studies that it uses.

    One whose grid cannot be expanded uses none; a report names the error among the gaps.
    """
    files = [path for path in (StudyDir(place).config_file, *sorted(place.glob("*/study.yaml"))) if path.is_file()]
    return [found for path in files if (found := _of_study(path)) is not None]


def own_run(run: RunDir, sharing: Iterable[ReusedRuns]) -> OwnRun:
    """How a run is read for its own study. ``sharing``: the studies beside it that use runs of others."""
    using = [each.asked for each in sharing if run.path.resolve() in each.runs]
    own = _evaluated(run.study.config_file) if using else None
    if own is None or not own.weights:
        return OwnRun()
    return OwnRun(
        frozenset(key for asked in using for key in asked.weights) - own.weights.keys(),
        frozenset(key for asked in using for key in asked.every) - own.every.keys(),
    )


def _of_study(path: Path) -> ReusedRuns | None:
    try:
        study = read_config(StudyConfig, [path])
        if not study.reuse:
            return None
        cells = expand_study(study, path.parent.parent)
        runs = {cell.folder.resolve(): cell.folder for cell in cells if cell.reused and cell.run.is_run}
        return ReusedRuns(StudyDir(path.parent.resolve()), study.study, runs, Evaluated.by(study))
    except InputError:
        return None


def _evaluated(path: Path) -> Evaluated | None:
    """What the study of a file evaluates; None without a sound file."""
    try:
        return Evaluated.by(read_config(StudyConfig, [path])) if path.is_file() else None
    except InputError:
        return None


def _key(record: BaseRecord) -> RecordKey:
    return record.benchmark, record.protocol, record.task
