"""Run folders as a report sees them: configuration, state, logged metrics and evaluation records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.record import BaseRecord, FewShotRecord, ProbeRecord, Record, RobustnessRecord, TextRecord

Parsed = TypeVar("Parsed", bound=BaseModel)


class State(BaseModel):
    """What ``state.json`` says of a run; ``step`` of ``steps`` are done (-1: unknown)."""

    state: str
    step: int
    steps: int
    error: str | None = None

    @property
    def sentence(self) -> str:
        """How far the run came."""
        reached = f" at step {self.step:,} of {self.steps:,}" if self.step >= 0 else ""
        return f"{self.state}{reached}{f': {self.error}' if self.error else ''}"


class Health(BaseModel):
    """Collapse monitor: mean standard deviation of the target per channel, effective rank of its tokens."""

    target_std: float
    effective_rank: float


class LoggedStep(BaseModel):
    """What a report shows of one line of ``metrics.jsonl``."""

    step: int
    loss: float
    terms: dict[str, float]
    health: Health | None = None


@dataclass(frozen=True)
class RunReport:
    """One run of a study. ``state`` is None where none was written; ``records`` are those of its probes.

    ``whole_study`` says that its study was named, not this run alone.
    """

    folder: Path
    config: RunConfig
    state: State | None
    steps: tuple[LoggedStep, ...]
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
        return self.folder.resolve().parents[2]

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
        found = sorted(config.parent for config in place.rglob("config.yaml"))
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
    files = dict.fromkeys(run.study_folder / "study.yaml" for run in runs)
    said = [loading.read_config(StudyConfig, [path]).about for path in files if path.is_file()]
    return [about for about in said if about]


def _read(folder: Path) -> RunReport:
    evaluations = folder / "eval"
    return RunReport(
        folder=folder,
        config=loading.read_config(RunConfig, [folder / "config.yaml"]),
        state=_state(folder / "state.json"),
        steps=_logged(folder / "metrics.jsonl"),
        records=_records(ProbeRecord, evaluations),
        few_shot=_records(FewShotRecord, evaluations / "few_shot"),
        robustness=_records(RobustnessRecord, evaluations / "robustness"),
        text=_records(TextRecord, evaluations / "text"),
    )


def _records(kind: type[Record], folder: Path) -> dict[Path, Record]:
    return {path: record.read_record(kind, path) for path in sorted(folder.glob("*.json"))}


def _state(path: Path) -> State | None:
    return _parse(State, path.read_bytes(), str(path)) if path.is_file() else None


def _logged(path: Path) -> tuple[LoggedStep, ...]:
    """Logged steps in order. A resumed run logs some steps again: the last line of a step counts.

    A killed run may leave half a line at the end, which is no damage and is passed over.
    """
    if not path.is_file():
        return ()
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    logged = [_parse(LoggedStep, line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    return tuple(sorted({line.step: line for line in logged}.values(), key=lambda line: line.step))


def _parse(model: type[Parsed], content: bytes, place: str) -> Parsed:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise DataError(
            f"{place}: damaged ({error.errors()[0]['msg']}); delete the file to report without it"
        ) from error
