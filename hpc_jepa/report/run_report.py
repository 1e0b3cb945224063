"""Contents of run folders for a report: configuration, state, logged metrics and evaluation records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
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
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState


@dataclass(frozen=True)
class RunReport:
    """One run. ``state`` is None if it never started; ``records`` are those of its probes.

    ``whole_study``: the report is about the whole study, not about this run alone.
    """

    dir: RunDir
    config: RunConfig
    state: RunState | None
    metrics: Sequence[MetricsRecord]
    records: dict[Path, ProbeRecord]
    few_shot: dict[Path, FewShotRecord] = field(default_factory=dict)
    robustness: dict[Path, RobustnessRecord] = field(default_factory=dict)
    text: dict[Path, TextRecord] = field(default_factory=dict)
    whole_study: bool = False

    @property
    def all_records(self) -> Iterator[tuple[Path, BaseRecord]]:
        """Records of all tasks."""
        for records in (self.records, self.few_shot, self.robustness, self.text):
            yield from records.items()

    @property
    def label(self) -> str:
        """Variant, semantics and seed."""
        return run_label(self.config)


def find_runs(places: Sequence[Path]) -> list[RunReport]:
    """All runs in study or run folders, in that order, each once.

    Raises InputError if a folder holds no run, DataError naming a damaged record or log.
    """
    folders: dict[Path, bool] = {}
    for place in places:
        runs = RunDir.below(place)
        if not runs:
            raise InputError(f"{place}: no run in it; name a study or run folder that 'hpc-jepa train' wrote")
        for run in runs:
            below_study = place.resolve() not in (run.path.resolve(), *run.path.resolve().parents[:2])
            folders[run.path] = folders.get(run.path, False) or below_study
    return [_read(RunDir(path), whole_study) for path, whole_study in folders.items()]


def run_label(config: RunConfig) -> str:
    """Variant, semantics and seed."""
    return f"{config.variant} ({config.semantics.preset}), seed {config.seed}"


def study_descriptions(runs: Sequence[RunReport]) -> list[str]:
    """``about`` of each study that has a ``study.yaml``."""
    files = dict.fromkeys(run.dir.study.config_file for run in runs)
    return [about for path in files if path.is_file() and (about := read_config(StudyConfig, [path]).about)]


def _read(run: RunDir, whole_study: bool) -> RunReport:
    return RunReport(
        dir=run,
        config=run.config,
        state=run.state,
        metrics=run.logged_metrics(),
        records=_records(ProbeRecord, run.record_dir()),
        few_shot=_records(FewShotRecord, run.record_dir("few_shot")),
        robustness=_records(RobustnessRecord, run.record_dir("robustness")),
        text=_records(TextRecord, run.record_dir("text")),
        whole_study=whole_study,
    )


def _records(kind: type[Record], folder: Path) -> dict[Path, Record]:
    return {path: read_record(kind, path) for path in sorted(folder.glob("*.json"))}
