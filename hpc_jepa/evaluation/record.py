"""Evaluation records: one JSON per (run, benchmark, protocol, task), with per-clip predictions in an NPZ beside it.

RUN/eval/<benchmark>.<protocol>.json           probes
RUN/eval/<task>/<benchmark>.<protocol>.json    few_shot, robustness, text
... .npz                                       predictions of the record of the same name
"""

import hashlib
import io
import struct
import tokenize
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hpc_jepa.config.benchmark import (
    LostFrames,
    MetricName,
    Pooling,
    ProtocolName,
    TargetConfig,
    Task,
    Weights,
    current_fingerprint,
)
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import semantics_name
from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.stats.accuracy import Correct, accuracy
from hpc_jepa.evaluation.stats.metrics import class_metrics
from hpc_jepa.evaluation.stats.regression import measure_errors
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.escape import first_line
from hpc_jepa.io.retry import read_bytes
from hpc_jepa.io.validation import parse_json

Predictions = dict[str, NDArray[Any]]
"""``labels`` [n] (classes, or targets as float64), ``samples`` [n], where known ``clusters`` [n] (equal numbers: cut
from one source video), and the predictions of each result under its ``key``, usually classes or numbers [S, n].
"""

MAX_PREDICTIONS = 1 << 30
"""Limit of the bytes of a file of predictions, before and after it is unpacked."""
NPZ_ERRORS = (
    *(ValueError, LookupError, ArithmeticError, TypeError, EOFError, OSError, MemoryError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)
"""What numpy and zipfile raise for damaged or foreign files."""

Proportion = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
AtMostOne = Annotated[float, Field(le=1)]


class RunIdentity(Strict):
    """Identity of a run and its configuration. ``step`` of ``steps`` training steps are done."""

    study: str
    regime: str
    variant: str
    seed: int
    semantics: Literal["published", "corrected"]
    overridden: dict[str, Any] = Field(description="semantics switches that differ from the preset")
    switches: dict[str, bool | str] = Field(
        {}, description="switches that the run is named after", exclude_if=lambda x: not x
    )
    fingerprint: str = Field(description="hash of the run's configuration")
    step: int = Field(ge=0)
    steps: int = Field(ge=0)

    @classmethod
    def of(cls, config: RunConfig, step: int) -> "RunIdentity":
        """The identity of a run whose checkpoint of ``step`` was evaluated."""
        return cls(
            study=config.study,
            regime=config.regime,
            variant=config.variant,
            seed=config.seed,
            semantics=config.semantics.preset,
            overridden=config.semantics.overridden(),
            switches=config.named_switches,
            fingerprint=config.fingerprint(),
            step=step,
            steps=config.schedule.steps,
        )

    @property
    def semantics_name(self) -> str:
        """The preset and the switches that the run is named after."""
        return semantics_name(self.semantics, self.switches)


class BaseResult(Strict):
    """A proportion in [0, 1] with its 95 % confidence interval, for one set of weights."""

    weights: Weights
    value: Proportion
    low: Proportion
    high: Proportion
    n: int = Field(gt=0, description="test clips, or queries")

    KEY: ClassVar[str]
    """Format of ``key``."""

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return self.KEY.format(**vars(self))


class Candidate(Strict):
    """One choice of hyperparameters and its accuracy, or R² of a target, on the clips it was selected on."""

    setting: dict[str, float]
    validation: AtMostOne | None = Field(None, exclude_if=lambda value: value is None)
    test: Proportion | None = Field(
        None, description="of a probe that is selected on the test clips", exclude_if=lambda value: value is None
    )


class ProbeResult(BaseResult):
    """Accuracy of one probe on the features of one set of weights, or its mean absolute error of a target.

    An error is in the unit of the target, and lower is better.
    """

    value: NotNegative
    low: NotNegative
    high: NotNegative
    probe: str
    pooling: Pooling
    probe_seeds: tuple[int, ...] = Field(description="empty for a deterministic probe")
    metric: Literal["top1", "mae"]
    per_seed: tuple[float, ...] = Field(min_length=1)
    setting: dict[str, float] = Field({}, description="hyperparameters of the probe")
    candidates: tuple[Candidate, ...] = Field((), description="all hyperparameters tried on validation clips")
    selected_on: Literal["validation", "test"] | None = Field(
        None,
        description="clips on which a probe of several blocks was selected; test: its accuracy is that of the best",
        exclude_if=lambda value: value is None,
    )
    predicted_classes: int | None = Field(
        None, description="distinct classes predicted by the first seed; 1: a constant"
    )
    majority: Proportion | None = Field(None, description="proportion of the largest class among the test clips")
    mean_class_accuracy: Proportion | None = Field(
        None, description="mean over classes, then over probe seeds", exclude_if=lambda value: value is None
    )
    macro_f1: Proportion | None = Field(
        None, description="mean over classes, then over probe seeds", exclude_if=lambda value: value is None
    )

    r2: AtMostOne | None = Field(
        None, description="of a target: share of the variance explained", exclude_if=lambda value: value is None
    )
    r2_low: AtMostOne | None = Field(
        None, description="95 % interval, bootstrap over source videos", exclude_if=lambda value: value is None
    )
    r2_high: AtMostOne | None = Field(None, exclude_if=lambda value: value is None)
    constant: NotNegative | None = Field(
        None, description="mean absolute error of the best constant", exclude_if=lambda value: value is None
    )

    KEY = "{weights}.{probe}"

    @model_validator(mode="after")
    def _shares_are_at_most_one(self) -> "ProbeResult":
        if self.metric == "top1":
            shares = {name: getattr(self, name) for name in ("value", "low", "high")}
            scores = [candidate.validation or 0.0 for candidate in self.candidates]
            shares["validation of a candidate"] = min(scores, default=0.0)
            if wrong := next((name for name, share in shares.items() if not 0 <= share <= 1), None):
                raise ValueError(f"{wrong} is {shares[wrong]}, an accuracy outside [0, 1]")
        return self


FewShotKind = Literal["draws", "episodes"]
Direction = Literal["video_to_text", "text_to_video", "class_names"]


class ClassPool(Strict):
    """Classes that all numbers of shots of a record have: those with at least ``needed`` clips."""

    needed: int = Field(gt=0, description="training clips of a class for draws, test clips for episodes")
    classes: tuple[int, ...] = Field(description="numbers of the classes, ascending")
    left_out: dict[str, int] = Field({}, description="clips of each class that has too few, by its name")


class FewShotResult(BaseResult):
    """Accuracy with ``shots`` labels for each of ``ways`` classes, mean over draws of labels or over episodes.

    draws: logistic regression tested on all test clips of the classes; predictions are classes [draws, n].
    episodes: nearest class mean among a few classes of the test set; predictions are correct answers [episodes].

    The interval is for new draws of labels from the same training clips and new test clips, or for new episodes of new
    test clips, by source video where they are known; not for new pretraining seeds. Of records of older releases
    (``covers`` is draws) it is for new draws or episodes of the same clips.
    """

    kind: FewShotKind
    ways: int
    shots: int
    pooling: Pooling
    count: int = Field(description="draws or episodes")
    per_draw: tuple[float, ...] = Field(min_length=2)
    covers: Literal["draws", "draws and clips"] = Field(
        "draws", description="what varies in the interval", exclude_if=lambda value: value == "draws"
    )

    @property
    def key(self) -> str:
        """Name of its predictions."""
        form = "shots-{shots}" if self.kind == "draws" else "episodes-{ways}way-{shots}shot"
        return f"{self.weights}.{form.format(**vars(self))}"


class RobustnessResult(BaseResult):
    """Accuracy on corrupted clips of a probe trained on clean clips; severity 0 is the clean test set."""

    probe: str
    corruption: str
    severity: int = Field(ge=0, le=5)
    level: float = Field(description="parameter of the severity: a proportion, a standard deviation, a quality")
    consistency: Proportion = Field(description="proportion of clips with the same predicted class as when clean")
    per_seed: tuple[float, ...] = Field(min_length=1)

    KEY = "{weights}.{probe}.{corruption}.{severity}"


class TextResult(BaseResult):
    """Retrieval between clips and captions, or zero-shot classification, with a proportion of the frames dropped.

    Predictions are the rank of the first correct answer [S, n], or classes [S, n] for class_names.
    """

    dropout: Proportion
    direction: Direction
    metric: Literal["R@1", "R@5", "R@10", "top1"]
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...] = Field(min_length=1)

    lost_frames: LostFrames = Field(
        "random", description="which frames were dropped", exclude_if=lambda value: value == "random"
    )

    KEY = "{weights}.{direction}.{dropout:g}"

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return super().key + ("" if self.lost_frames == "random" else f".{self.lost_frames}")


class BaseRecord(Strict):
    """Run, benchmark, data and software of an evaluation."""

    format: Literal[1] = 1
    run: RunIdentity
    benchmark: str
    title: str
    classes: int
    protocol: ProtocolName
    protocol_fingerprint: str
    data: dict[Literal["train", "test"], str] = Field(description="SHA-256 of each data set's manifest")
    software: dict[str, str]
    encoders: dict[str, str] = Field({}, description="SHA-256 of the weights of external encoders")
    predictions: str = Field(description="SHA-256 of the file of predictions")
    clusters: int | None = Field(
        None,
        gt=0,
        description="source videos that the test clips were cut from; absent if unknown",
        exclude_if=lambda value: value is None,
    )
    decides: MetricName | None = Field(
        None,
        description="metric that the benchmark says to compare by; absent: accuracy",
        exclude_if=lambda value: value is None,
    )

    task: ClassVar[Task] = "probe"

    @property
    def comparable_fingerprint(self) -> str:
        """Fingerprint of the protocol, that of this release if the record has the one of an older release."""
        return current_fingerprint(self.protocol_fingerprint, self.benchmark, self.protocol, self.task)


class ProbeRecord(BaseRecord):
    """Accuracies of probes on all labels, or errors of probes of a number."""

    target: TargetConfig | None = Field(
        None, description="the number that is predicted; absent: classes", exclude_if=lambda value: value is None
    )
    results: tuple[ProbeResult, ...] = Field(min_length=1)


class FewShotRecord(BaseRecord):
    """Accuracies with few labels. ``pools``: absent in records of older releases, whose draws had all classes."""

    task = "few_shot"

    pools: dict[FewShotKind, ClassPool] | None = Field(
        None, description="classes of all numbers of shots", exclude_if=lambda value: value is None
    )

    @model_validator(mode="after")
    def _draws_have_a_pool(self) -> "FewShotRecord":
        if self.pools is not None and "draws" not in self.pools:
            raise ValueError("pools has no draws")
        return self

    results: tuple[FewShotResult, ...] = Field(min_length=1)

    @property
    def draw_classes(self) -> tuple[int, ...]:
        """Numbers of the classes of the draws."""
        return self.pools["draws"].classes if self.pools else tuple(range(self.classes))


class RobustnessRecord(BaseRecord):
    """Accuracies on corrupted clips."""

    task = "robustness"

    results: tuple[RobustnessResult, ...] = Field(min_length=1)


class TextRecord(BaseRecord):
    """Retrieval by caption and zero-shot classification."""

    task = "text"

    results: tuple[TextResult, ...] = Field(min_length=1)


AnyResult = ProbeResult | FewShotResult | RobustnessResult | TextResult
AnyRecord = ProbeRecord | FewShotRecord | RobustnessRecord | TextRecord
RECORD_TYPES: dict[Task, type[AnyRecord]] = {
    record_type.task: record_type for record_type in (ProbeRecord, FewShotRecord, RobustnessRecord, TextRecord)
}
Record = TypeVar("Record", bound=BaseRecord)


@dataclass(frozen=True)
class TaskResult:
    """Results in table order, and predictions by result key, beside ``labels``, ``samples`` and ``clusters``.

    ``facts``: further fields of the record.
    """

    results: list[AnyResult] = field(default_factory=list)
    predictions: Predictions = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def set_clips(self, labels: NDArray[Any], samples: NDArray[np.int64], clusters: NDArray[np.int64] | None) -> None:
        """Store what is known of the test clips, each [n]; ``clusters``: None if unknown."""
        self.predictions.update(labels=labels, samples=samples)
        if clusters is not None:
            self.predictions["clusters"] = clusters

    def add(self, result: AnyResult, predictions: NDArray[Any]) -> None:
        """Append a result and store its predictions."""
        self.results.append(result)
        self.predictions[result.key] = predictions


def write_record(record_type: type[Record], path: Path, fields: dict[str, Any], predictions: Predictions) -> Record:
    """Write predictions, then the record with their checksum, each atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **predictions)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    clusters = {"clusters": len(np.unique(predictions["clusters"]))} if "clusters" in predictions else {}
    record = record_type.model_validate({**fields, "predictions": digest, **clusters})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    return rewrite_record(path, record)


def rewrite_record(path: Path, record: Record) -> Record:
    """Write a record with changed metadata; its predictions stay."""
    write_atomically(path, (record.model_dump_json(indent=1) + "\n").encode())
    return record


def read_record(record_type: type[Record], path: Path) -> Record:
    """A record of the given type. Raises DataError with the path if it is damaged."""
    return parse_json(record_type, read_bytes(path), path, _REEVALUATE)


def read_predictions(path: Path, record: AnyRecord) -> Predictions:
    """Predictions of the record at ``path``. Raises DataError if they are missing or their checksum differs."""
    file = path.with_suffix(".npz")
    if not file.is_file():
        raise DataError(f"{file}: missing predictions of {path.name}; {_REEVALUATE}")
    content = read_bytes(file)
    if hashlib.sha256(content).hexdigest() != record.predictions:
        raise DataError(f"{file}: checksum differs from the one in {path.name}; {_REEVALUATE}")
    try:
        return _unpack(content, numbers=isinstance(record, ProbeRecord) and record.target is not None)
    except NPZ_ERRORS as error:
        raise DataError(f"{file}: not the arrays of predictions ({first_line(error)}); {_REEVALUATE}") from error


def _unpack(content: bytes, numbers: bool) -> Predictions:
    """Arrays of an NPZ, integers or with ``numbers`` also finite floats. Raises one of NPZ_ERRORS."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_PREDICTIONS:
        raise ValueError(f"{size:,} bytes uncompressed")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        predictions = {name: arrays[name] for name in arrays.files}
    for name, values in predictions.items():
        floats = numbers and values.dtype.kind == "f" and name not in ("samples", "clusters")
        if not (floats or values.dtype.kind in "iub") or values.ndim not in (1, 2) or not values.size:
            raise ValueError(f"{name} is not a table of {'numbers' if numbers else 'integers'}")
        if floats and not np.isfinite(values).all():
            raise ValueError(f"{name} has a number that is not finite")
    return {
        name: values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
        for name, values in predictions.items()
    }


def is_correct(predictions: Predictions, key: str) -> Correct:
    """[S, n]: whether each seed's prediction under ``key`` is the label of the clip."""
    return np.equal(predictions[key], predictions["labels"])


def accuracy_fields(correct: Correct, clusters: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Fields ``value``, ``low``, ``high``, ``n`` and ``per_seed`` of a result, from correct classifications [S, n].

    clusters: [n], None if unknown; if no two clips share one, the interval is that of independent clips.
    """
    shared = clusters is not None and len(np.unique(clusters)) < len(clusters)
    mean = accuracy(correct, clusters if shared else None)
    per_seed = tuple(correct.mean(axis=1).tolist())
    return {"value": mean.value, "low": mean.low, "high": mean.high, "n": correct.shape[1], "per_seed": per_seed}


def class_fields(predicted: NDArray[Any], labels: NDArray[Any], clusters: NDArray[np.int64] | None) -> dict[str, Any]:
    """Fields of a result that predictions [S, n] of classes [n] give."""
    accuracies = accuracy_fields(predicted == labels, clusters)
    return {"metric": "top1", **asdict(class_metrics(predicted, labels)), **accuracies}


def error_fields(predicted: NDArray[Any], targets: NDArray[Any], clusters: NDArray[np.int64] | None) -> dict[str, Any]:
    """Fields of a result that predictions [S, n] of targets [n] give."""
    found = asdict(measure_errors(predicted, targets, clusters))
    per_seed = tuple(np.abs(predicted - targets).mean(axis=1).tolist())
    return {"metric": "mae", "value": found.pop("mae"), "n": targets.size, "per_seed": per_seed, **found}


_REEVALUATE = "run 'hpc-jepa evaluate' with --force to write it again"
