"""Records: one JSON per (run, benchmark, protocol, task) with every result, beside it what was predicted.

RUN/eval/<benchmark>.<protocol>.json           probes
RUN/eval/<task>/<benchmark>.<protocol>.json    few_shot, robustness, text
... .npz                                       predictions of the record of the same name
"""

import hashlib
import io
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from hpc_jepa.config.benchmark import OptionalTask, Pooling, ProtocolName, Task, Weights, current_fingerprint
from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.stats.paired import Correct
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.runs.run_dir import RunDir

Predictions = dict[str, NDArray[np.int64]]
"""``labels`` [n], ``samples`` [n], and under ``key`` of each result what was predicted, mostly classes [S, n]."""

Proportion = Annotated[float, Field(ge=0, le=1)]


class RunIdentity(Strict):
    """Which run, and what makes it different from others. ``step`` of ``steps`` are trained."""

    study: str
    regime: str
    variant: str
    seed: int
    semantics: Literal["published", "corrected"]
    overridden: dict[str, Any] = Field(description="semantics switches that differ from the preset")
    fingerprint: str = Field(description="hash of the run's configuration")
    step: int = Field(ge=0)
    steps: int = Field(ge=0)


class BaseResult(Strict):
    """A share in [0, 1] with its 95 % interval, for one set of weights."""

    weights: Weights
    value: Proportion
    low: Proportion
    high: Proportion
    n: int = Field(gt=0, description="test clips, or queries")


class Candidate(Strict):
    """A setting that was tried, and its accuracy on validation clips."""

    setting: dict[str, float]
    validation: Proportion


class ProbeResult(BaseResult):
    """Accuracy of one probe on the features of one set of weights."""

    probe: str
    pooling: Pooling
    probe_seeds: tuple[int, ...] = Field(description="empty for a deterministic probe, which needs no seed")
    metric: Literal["top1"]
    per_seed: tuple[float, ...] = Field(min_length=1)
    setting: dict[str, float] = Field({}, description="what the probe was trained with")
    candidates: tuple[Candidate, ...] = Field((), description="all settings, where one was chosen on validation clips")
    predicted_classes: int | None = Field(None, description="distinct classes the first seed names; 1: it is constant")
    majority: Proportion | None = Field(None, description="share of the largest class among the test clips")

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return f"{self.weights}.{self.probe}"


class FewShotResult(BaseResult):
    """Accuracy with ``shots`` labels for each of ``ways`` classes, mean over draws of labels or over episodes.

    draws: logistic regression, judged on the whole test set; predictions are classes [draws, n].
    episodes: nearest class mean among a few classes of the test set; predictions are right answers [episodes].
    """

    kind: Literal["draws", "episodes"]
    ways: int
    shots: int
    pooling: Pooling
    count: int = Field(description="draws or episodes")
    per_draw: tuple[float, ...] = Field(min_length=2)

    @property
    def key(self) -> str:
        """Name of its predictions."""
        if self.kind == "draws":
            return f"{self.weights}.shots-{self.shots}"
        return f"{self.weights}.episodes-{self.ways}way-{self.shots}shot"


class RobustnessResult(BaseResult):
    """Accuracy of a probe, trained on clean clips, on clips damaged in one way; severity 0 is the clean test set."""

    probe: str
    corruption: str
    severity: int = Field(ge=0, le=5)
    level: float = Field(description="what the severity means: a share, a standard deviation, a quality")
    consistency: Proportion = Field(description="share of clips that get the class they got when clean")
    per_seed: tuple[float, ...] = Field(min_length=1)

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return f"{self.weights}.{self.probe}.{self.corruption}.{self.severity}"


class TextResult(BaseResult):
    """Retrieval between clips and captions, or class names as a classifier, with a share of the frames lost.

    Predictions are the rank of the first right answer [S, n], or classes [S, n] for class_names.
    """

    dropout: Proportion
    direction: Literal["video_to_text", "text_to_video", "class_names"]
    metric: Literal["R@1", "R@5", "R@10", "top1"]
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...] = Field(min_length=1)

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return f"{self.weights}.{self.direction}.{self.dropout:g}"


class BaseRecord(Strict):
    """What was evaluated, on what, with what."""

    format: Literal[1] = 1
    run: RunIdentity
    benchmark: str
    title: str
    classes: int
    protocol: ProtocolName
    protocol_fingerprint: str
    data: dict[Literal["train", "test"], str] = Field(description="SHA-256 of each data set's manifest")
    software: dict[str, str]
    encoders: dict[str, str] = Field({}, description="SHA-256 of the weights of encoders from elsewhere")
    predictions: str = Field(description="SHA-256 of the file of predictions")

    task: ClassVar[OptionalTask | None] = None

    @property
    def comparable_fingerprint(self) -> str:
        """Fingerprint of the protocol, that of this release if the record has the one of an older release."""
        return current_fingerprint(self.protocol_fingerprint, self.benchmark, self.protocol, self.task)


class ProbeRecord(BaseRecord):
    """Everything a table needs to know, and all that is needed to recompute it."""

    results: tuple[ProbeResult, ...] = Field(min_length=1)

    @property
    def weights(self) -> set[Weights]:
        """Weights that were evaluated."""
        return {result.weights for result in self.results}


class FewShotRecord(BaseRecord):
    """Accuracies with few labels."""

    task = "few_shot"

    results: tuple[FewShotResult, ...] = Field(min_length=1)


class RobustnessRecord(BaseRecord):
    """Accuracies on damaged clips."""

    task = "robustness"

    results: tuple[RobustnessResult, ...] = Field(min_length=1)


class TextRecord(BaseRecord):
    """Retrieval and classification by words."""

    task = "text"

    results: tuple[TextResult, ...] = Field(min_length=1)


AnyRecord = ProbeRecord | FewShotRecord | RobustnessRecord | TextRecord
Record = TypeVar("Record", bound=BaseRecord)


def record_path(run: Path, benchmark: str, protocol: ProtocolName, task: Task = "probe") -> Path:
    """Where a record lies; its predictions lie beside it, with suffix ``.npz``."""
    return RunDir(run).record_file(benchmark, protocol, task)


def write_probe_record(path: Path, record: dict[str, Any], predictions: Predictions) -> ProbeRecord:
    """A record of the probes; see ``write_as``."""
    return write_record(ProbeRecord, path, record, predictions)


def write_record(kind: type[Record], path: Path, record: dict[str, Any], predictions: Predictions) -> Record:
    """Write predictions, then the record that names their checksum; each appears whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **predictions)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    validated = kind.model_validate({**record, "predictions": digest})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    write_atomically(path, (validated.model_dump_json(indent=1) + "\n").encode())
    return validated


def read_probe_record(path: Path) -> ProbeRecord:
    """Raises DataError naming the file when the record is damaged."""
    return read_record(ProbeRecord, path)


def read_record(kind: type[Record], path: Path) -> Record:
    """A record of one of the four kinds. Raises DataError naming the file when it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "file"
        raise DataError(f"{path}: damaged record ({where}: {fault['msg']}); {_REEVALUATE}") from error


def read_predictions(path: Path, record: AnyRecord) -> Predictions:
    """Predictions of the record at ``path``. Raises DataError when they are missing or belong to another record."""
    file = path.with_suffix(".npz")
    if not file.is_file():
        raise DataError(f"{file}: missing, but {path.name} needs it; {_REEVALUATE}")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.predictions:
        raise DataError(f"{file}: not the predictions that {path.name} was computed from; {_REEVALUATE}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.int64) for name in arrays.files}


def is_correct(predictions: Predictions, key: str) -> Correct:
    """[S, n]: whether the probes ``<weights>.<probe>`` name the right class."""
    return np.equal(predictions[key], predictions["labels"])


_REEVALUATE = "run 'hpc-jepa evaluate' with --force to write it again"
