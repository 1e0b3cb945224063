"""Records: one JSON per (run, benchmark, protocol) with every result, beside it the prediction for every test clip."""

import hashlib
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from hpc_jepa.checkpoint.files import write_atomically
from hpc_jepa.config.benchmark import Pooling, ProtocolName, Weights
from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.statistics import Correct

Predictions = dict[str, NDArray[np.int64]]
"""``labels`` [n], ``samples`` [n], and ``<weights>.<probe>`` [S, n]: the class each probe seed names."""


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


class Result(Strict):
    """Accuracy of one probe on the features of one set of weights. Shares in [0, 1]; low, high: 95 % interval."""

    weights: Weights
    probe: str
    pooling: Pooling
    probe_seeds: tuple[int, ...] = Field(description="empty for a deterministic probe, which needs no seed")
    metric: Literal["top1"]
    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(gt=0, description="test clips")
    per_seed: tuple[float, ...] = Field(min_length=1)

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return f"{self.weights}.{self.probe}"


class EvaluationRecord(Strict):
    """Everything a table needs to know, and all that is needed to recompute it."""

    format: Literal[1] = 1
    run: RunIdentity
    benchmark: str
    title: str
    classes: int
    protocol: ProtocolName
    protocol_fingerprint: str
    data: dict[Literal["train", "test"], str] = Field(description="SHA-256 of each data set's manifest")
    software: dict[str, str]
    predictions: str = Field(description="SHA-256 of the file of predictions")
    results: tuple[Result, ...] = Field(min_length=1)

    @property
    def weights(self) -> set[Weights]:
        """Weights that were evaluated."""
        return {result.weights for result in self.results}


def record_path(run: Path, benchmark: str, protocol: ProtocolName) -> Path:
    """Where a record lies; its predictions lie beside it, with suffix ``.npz``."""
    return run / "eval" / f"{benchmark}.{protocol}.json"


def write(path: Path, record: dict[str, Any], predictions: Predictions) -> EvaluationRecord:
    """Write predictions, then the record that names their checksum; each appears whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **predictions)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    validated = EvaluationRecord.model_validate({**record, "predictions": digest})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    write_atomically(path, (validated.model_dump_json(indent=1) + "\n").encode())
    return validated


def read(path: Path) -> EvaluationRecord:
    """Raises DataError naming the file when the record is damaged."""
    try:
        return EvaluationRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "file"
        raise DataError(f"{path}: damaged record ({where}: {fault['msg']}); {_AGAIN}") from error


def read_predictions(path: Path, record: EvaluationRecord) -> Predictions:
    """Predictions of the record at ``path``. Raises DataError when they are missing or belong to another record."""
    file = path.with_suffix(".npz")
    if not file.is_file():
        raise DataError(f"{file}: missing, but {path.name} needs it; {_AGAIN}")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.predictions:
        raise DataError(f"{file}: not the predictions that {path.name} was computed from; {_AGAIN}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.int64) for name in arrays.files}


def correct(predictions: Predictions, key: str) -> Correct:
    """[S, n]: whether the probes ``<weights>.<probe>`` name the right class."""
    return np.equal(predictions[key], predictions["labels"])


_AGAIN = "run 'hpc-jepa evaluate' with --force to write it again"
