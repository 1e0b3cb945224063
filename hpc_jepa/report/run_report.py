"""Contents of run folders for a report: configuration, state, logged metrics and evaluation records."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from hpc_jepa.report.reused_runs import OwnRun, ReusedRuns, own_run, reused_runs
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.runs.origin import RunOrigin
from hpc_jepa.runs.preview_file import Preview, read_preview
from hpc_jepa.runs.run_dir import RunDir, StudyDir
from hpc_jepa.runs.state import RunState

Content = TypeVar("Content")


@dataclass(frozen=True)
class RunReport:
    """One run. ``state`` is None if it never started; ``records`` are those of its probes, ``step_records`` those of
    chosen steps.

    ``whole_study``: the report is about the whole study, not about this run alone. ``reused_by``: the study that uses
    the run of another one; its name is that in ``config`` and the records, which are those that it evaluates.
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
    reused_by: StudyDir | None = None

    @property
    def study(self) -> StudyDir:
        """The study that the run is reported in."""
        return self.reused_by or self.dir.study

    @property
    def all_records(self) -> Iterator[tuple[Path, BaseRecord]]:
        """Records of all tasks, those of chosen steps last."""
        yield from self.last_records
        yield from self.step_records.items()

    @property
    def last_records(self) -> Iterator[tuple[Path, BaseRecord]]:
        """Records of all tasks without those of chosen steps."""
        for records in (self.records, self.few_shot, self.robustness, self.text):
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
    """All runs in study or run folders, in that order, each once, and those that a study there uses of other studies.

    Raises InputError if a folder holds no run, or if the configuration of every run is damaged.
    """
    folders: dict[Path, bool] = {}
    reused: dict[tuple[Path, Path], ReusedRuns] = {}
    damaged: list[str] = []
    for place in places:
        below, others = RunDir.below(place), reused_runs(place)
        if not below and not any(each.runs for each in others):
            raise InputError(f"{place}: no run in it; name a study or run folder that 'hpc-jepa train' wrote")
        damaged += _without_config(place)
        for run in below:
            below_study = place.resolve() not in (run.path.resolve(), *run.path.resolve().parents[:2])
            folders[run.path] = folders.get(run.path, False) or below_study
        reused |= {(each.study.path, path): each for each in others for path in each.runs}
    roots = dict.fromkeys(RunDir(path).study.path.parent for path in folders)
    sharing = [each for root in roots for each in reused_runs(root)]
    readings: list[tuple[Path, bool, OwnRun | ReusedRuns]] = [
        *((path, whole_study, own_run(RunDir(path), sharing)) for path, whole_study in folders.items()),
        *((each.runs[path], True, each) for (_, path), each in reused.items()),
    ]
    runs: list[RunReport] = []
    for path, whole_study, reading in readings:
        try:
            runs.append(_read(RunDir(path), whole_study, damaged, reading))
        except InputError as error:
            damaged.append(f"{path}: left out ({error})")
    if readings and not runs:
        raise InputError(damaged[0])
    return FoundRuns(runs, list(dict.fromkeys(damaged)))


def _without_config(place: Path) -> list[str]:
    """A line for each folder that holds the state of a run but no configuration, so that the report leaves it out."""
    return [f"{run}: left out (no config.yaml)" for run in RunDir.possible_below(place) if not run.is_run]


def run_label(config: RunConfig) -> str:
    """Variant, semantics and seed."""
    return f"{config.variant} ({config.semantics_name}), seed {config.seed}"


def study_descriptions(runs: Sequence[RunReport]) -> list[str]:
    """Description of each study that has a sound ``study.yaml``."""
    files = dict.fromkeys(run.study.config_file for run in runs)
    return [about for path in files if path.is_file() and (about := _about(path))]


def _about(path: Path) -> str:
    try:
        return read_config(StudyConfig, [path]).description
    except InputError:  # a report on the whole study names it among the gaps
        return ""


def _read(run: RunDir, whole_study: bool, damaged: list[str], reading: OwnRun | ReusedRuns) -> RunReport:
    """The sound files of a run; the errors of the others are added to ``damaged``. Raises InputError.

    ``reading``: which records count, and for which study.
    """
    config, reused = run.config, reading if isinstance(reading, ReusedRuns) else None
    sound = partial(_or_none, damaged)

    def records(kind: type[Record], files: Iterable[Path]) -> dict[Path, Record]:
        read = {path: sound(partial(read_record, kind, path)) for path in files}
        return {path: record for path, record in read.items() if record is not None}

    def of_task(kind: type[Record], task: str) -> dict[Path, Record]:
        return reading.records(records(kind, sorted(run.record_dir(task).glob("*.json"))))

    return RunReport(
        dir=run,
        config=config if reused is None else config.model_copy(update={"study": reused.name}),
        state=sound(lambda: run.state),
        metrics=sound(run.logged_metrics) or [],
        records=of_task(ProbeRecord, "probe"),
        step_records=reading.step_records(records(ProbeRecord, run.step_record_files())),
        few_shot=of_task(FewShotRecord, "few_shot"),
        robustness=of_task(RobustnessRecord, "robustness"),
        text=of_task(TextRecord, "text"),
        preview=sound(partial(read_preview, run.preview_file)),
        origin=sound(lambda: run.origin),
        whole_study=whole_study,
        reused_by=None if reused is None else reused.study,
    )


def _or_none(damaged: list[str], read: Callable[[], Content]) -> Content | None:
    try:
        return read()
    except DataError as error:
        damaged.append(str(error))
        return None
