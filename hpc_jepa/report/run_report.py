"""Run folders as a report sees them: configuration, state, logged metrics and evaluation records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.record import BaseRecord, FewShotRecord, ProbeRecord, Record, RobustnessRecord, TextRecord
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState


@dataclass(frozen=True)
class RunReport:
    """One run of a study. ``state`` is None where none was written; ``records`` are those of its probes.

    ``whole_study`` says that its study was named, not this run alone.
    """

    folder: Path
    config: RunConfig
    state: RunState | None
    steps: tuple[MetricsRecord, ...]
    records: dict[Path, ProbeRecord]
    few_shot: dict[Path, FewShotRecord] = field(default_factory=dict)
    robustness: dict[Path, RobustnessRecord] = field(default_factory=dict)
    text: dict[Path, TextRecord] = field(default_factory=dict)
    whole_study: bool = False

    @property
    def all_records(self) -> Iterator[tuple[Path, BaseRecord]]:
        """Of every task."""
        for records in (self.records, self.few_shot, self.robustness, self.text):
            yield from records.items()

    @property
    def study_folder(self) -> Path:
        """RUNS/<study>, above <regime>/<variant>/seed-<n>."""
        return RunDir(self.folder).study.path

    @property
    def label(self) -> str:
        """Variant, semantics and seed, for people."""
        return run_label(self.config)


def find_runs(places: Sequence[Path]) -> list[RunReport]:
    """All runs in the given study or run folders, in that order, each once.

    Raises InputError where a folder holds no run, DataError naming the file where a record or log is damaged.
    """
    folders: dict[Path, bool] = {}
    for place in places:
        found = [run.path for run in RunDir.below(place)]
        if not found:
            raise InputError(f"{place}: holds no run; name a study or run folder that 'hpc-jepa train' wrote")
        for folder in found:
            below_study = place.resolve() not in (folder.resolve(), *folder.resolve().parents[:2])
            folders[folder] = folders.get(folder, False) or below_study
    return [replace(_read(folder), whole_study=whole) for folder, whole in folders.items()]


def run_label(config: RunConfig) -> str:
    """Variant, semantics and seed, for people."""
    return f"{config.variant} ({config.semantics.preset}), seed {config.seed}"


def study_descriptions(runs: Sequence[RunReport]) -> list[str]:
    """What each study says about itself in ``RUNS/<study>/study.yaml``, where it was run as a study."""
    files = dict.fromkeys(RunDir(run.folder).study.config_file for run in runs)
    said = [loading.read_config(StudyConfig, [path]).about for path in files if path.is_file()]
    return [about for about in said if about]


def _read(folder: Path) -> RunReport:
    run = RunDir(folder)
    return RunReport(
        folder=folder,
        config=run.config,
        state=run.state,
        steps=tuple(run.logged_metrics()),
        records=_records(ProbeRecord, run.record_dir()),
        few_shot=_records(FewShotRecord, run.record_dir("few_shot")),
        robustness=_records(RobustnessRecord, run.record_dir("robustness")),
        text=_records(TextRecord, run.record_dir("text")),
    )


def _records(kind: type[Record], folder: Path) -> dict[Path, Record]:
    return {path: record.read_record(kind, path) for path in sorted(folder.glob("*.json"))}
