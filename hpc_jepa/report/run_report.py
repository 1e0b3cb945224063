"""Contents of run folders for a report: configuration, state, logged metrics and evaluation records."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.record import (
    BaseRecord,
    FewShotRecord,
    ProbeRecord,
    Record,
    RobustnessRecord,
    TextRecord,
    read_record,
)
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.runs.origin import RunOrigin
from hpc_jepa.runs.preview_file import Preview, read_preview
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState

Content = TypeVar("Content")


@dataclass(frozen=True)
class RunReport:
    """One run. ``state`` is None if it never started; ``records`` are those of its probes, ``step_records`` those of
    chosen steps.

    ``whole_study``: the report is about the whole study, not about this run alone.
    """

    dir: RunDir
    config: RunConfig
    state: RunState | None
    metrics: Sequence[MetricsRecord]
    records: dict[Path, ProbeRecord]
    step_records: dict[Path, ProbeRecord] = field(default_factory=dict)
    few_shot: dict[Path, FewShotRecord] = field(default_factory=dict)
    robustness: dict[Path, RobustnessRecord] = field(default_factory=dict)
    text: dict[Path, TextRecord] = field(default_factory=dict)
    preview: Preview | None = None
    origin: RunOrigin | None = None
    whole_study: bool = False

    @property
    def all_records(self) -> Iterator[tuple[Path, BaseRecord]]:
        """Records of all tasks."""
        for records in (self.records, self.step_records, self.few_shot, self.robustness, self.text):
            yield from records.items()

    @property
    def label(self) -> str:
        """Variant, semantics and seed."""
        return run_label(self.config)


@dataclass(frozen=True)
class FoundRuns:
    """The runs of a report, and one line for each damaged file. What such a file would add is left out."""

    runs: Sequence[RunReport]
    damaged: Sequence[str]


def find_runs(places: Sequence[Path]) -> FoundRuns:
    """All runs in study or run folders, in that order, each once.

    Raises InputError if a folder holds no run, or if the configuration of every run is damaged.
    """
    folders: dict[Path, bool] = {}
    damaged: list[str] = []
    for place in places:
        below = RunDir.below(place)
        if not below:
            raise InputError(f"{place}: no run in it; name a study or run folder that 'hpc-jepa train' wrote")
        damaged += _without_config(place)
        for run in below:
            below_study = place.resolve() not in (run.path.resolve(), *run.path.resolve().parents[:2])
            folders[run.path] = folders.get(run.path, False) or below_study
    runs: list[RunReport] = []
    for path, whole_study in folders.items():
        try:
            runs.append(_read(RunDir(path), whole_study, damaged))
        except InputError as error:
            damaged.append(f"{path}: left out ({error})")
    if folders and not runs:
        raise InputError(damaged[0])
    return FoundRuns(runs, damaged)


def _without_config(place: Path) -> list[str]:
    """A line for each folder that holds the state of a run but no configuration, so that the report leaves it out."""
    return [f"{run}: left out (no config.yaml)" for run in RunDir.possible_below(place) if not run.is_run]


def run_label(config: RunConfig) -> str:
    """Variant, semantics and seed."""
    return f"{config.variant} ({config.semantics_name}), seed {config.seed}"


def study_descriptions(runs: Sequence[RunReport]) -> list[str]:
    """Description of each study that has a sound ``study.yaml``."""
    files = dict.fromkeys(run.dir.study.config_file for run in runs)
    return [about for path in files if path.is_file() and (about := _about(path))]


def _about(path: Path) -> str:
    try:
        return read_config(StudyConfig, [path]).description
    except InputError:  # a report on the whole study names it among the gaps
        return ""


def _read(run: RunDir, whole_study: bool, damaged: list[str]) -> RunReport:
    """The sound files of a run; the errors of the others are added to ``damaged``. Raises InputError."""
    config = run.config
    sound = partial(_or_none, damaged)

    def records(kind: type[Record], task: str) -> dict[Path, Record]:
        read = {path: sound(partial(read_record, kind, path)) for path in sorted(run.record_dir(task).glob("*.json"))}
        return {path: record for path, record in read.items() if record is not None}

    steps = {path: sound(partial(read_record, ProbeRecord, path)) for path in run.step_record_files()}
    return RunReport(
        dir=run,
        config=config,
        state=sound(lambda: run.state),
        metrics=sound(run.logged_metrics) or [],
        records=records(ProbeRecord, "probe"),
        step_records={path: record for path, record in steps.items() if record is not None},
        few_shot=records(FewShotRecord, "few_shot"),
        robustness=records(RobustnessRecord, "robustness"),
        text=records(TextRecord, "text"),
        preview=sound(partial(read_preview, run.preview_file)),
        origin=sound(lambda: run.origin),
        whole_study=whole_study,
    )


def _or_none(damaged: list[str], read: Callable[[], Content]) -> Content | None:
    try:
        return read()
    except DataError as error:
        damaged.append(str(error))
        return None
