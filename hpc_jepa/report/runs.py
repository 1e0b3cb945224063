"""Run folders as a report sees them: configuration, state, logged metrics and evaluation records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hpc_jepa.config import tree
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.record import EvaluationRecord

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
class Run:
    """One run of a study. ``state`` is None where none was written."""

    folder: Path
    config: RunConfig
    state: State | None
    steps: tuple[LoggedStep, ...]
    records: dict[Path, EvaluationRecord]

    @property
    def study_folder(self) -> Path:
        """RUNS/<study>, above <regime>/<variant>/seed-<n>."""
        return self.folder.resolve().parents[2]

    @property
    def label(self) -> str:
        """Variant, semantics and seed, for people."""
        return f"{self.config.variant} ({self.config.semantics.preset}), seed {self.config.seed}"


def find_runs(places: Sequence[Path]) -> list[Run]:
    """All runs in the given study or run folders, in that order, each once.

    Raises InputError where a folder holds no run, DataError naming the file where a record or log is damaged.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = sorted(config.parent for config in place.rglob("config.yaml"))
        if not found:
            raise InputError(f"{place}: holds no run; name a study or run folder that 'hpc-jepa train' wrote")
        folders |= dict.fromkeys(found)
    return [_read(folder) for folder in folders]


def abouts(runs: Sequence[Run]) -> list[str]:
    """What each study says about itself in ``RUNS/<study>/study.yaml``, where it was run as a study."""
    files = dict.fromkeys(run.study_folder / "study.yaml" for run in runs)
    said = [tree.load(StudyConfig, [path]).about for path in files if path.is_file()]
    return [about for about in said if about]


def _read(folder: Path) -> Run:
    records = {path: record.read(path) for path in sorted((folder / "eval").glob("*.json"))}
    config = tree.load(RunConfig, [folder / "config.yaml"])
    return Run(folder, config, _state(folder / "state.json"), _logged(folder / "metrics.jsonl"), records)


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
