"""``metrics.jsonl``: one record per logged step, and the only reader of it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hpc_jepa.io.flatten import flatten
from hpc_jepa.io.jsonl import keep_records, read_jsonl, read_last

_REMEDY = "delete the line to continue without it"


class TargetHealthRecord(BaseModel):
    """Collapse monitor: mean standard deviation of the target per channel, effective rank of its tokens."""

    target_std: float
    effective_rank: float


class MetricsRecord(BaseModel):
    """Metrics of one step, averaged over processes. Metrics that this release does not know are kept.

    passes: how often the steps up to this one read each source; with replacement on average.
    shared_clips: clips of rank 0 that other runs of its node made, since the process started; None if none were shared.
    loss_scale, overflow_steps: in fp16, the scale of the next loss, and the updates that were skipped since the last
    record because a gradient overflowed; skipped_steps does not count these. Values of skipped steps can be NaN or
    infinite.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    step: int
    time: float | None = None
    loss: float
    gradient_norm: float | None = None
    terms: dict[str, float] = {}
    coefficients: dict[str, float] = {}
    learning_rate: float | None = None
    weight_decay: float | None = None
    ema: float | None = None
    clips_per_second: float | None = None
    tflops_per_second: float | None = None
    mfu: float | None = None
    passes: dict[str, float] = {}
    data_wait_share: float | None = None
    shared_clips: int | None = None
    memory_bytes: int | None = None
    skipped_steps: int = 0
    loss_scale: float | None = None
    overflow_steps: int | None = None
    health: TargetHealthRecord | None = None

    def scalars(self) -> dict[str, float]:
        """All metrics by their TensorBoard names (``loss``, ``terms/ld``, ...), without step and time."""
        return flatten(self.model_dump(exclude={"step", "time"}, exclude_none=True), "/")


def read_metrics(path: Path) -> list[MetricsRecord]:
    """All records by step. If a resumed run logged a step twice, the later record counts.

    Raises DataError naming a damaged line; a torn last line is ignored.
    """
    records = {record.step: record for record in read_jsonl(path, MetricsRecord, _REMEDY)}
    return [records[step] for step in sorted(records)]


def last_metrics(path: Path) -> MetricsRecord | None:
    """The last record, None if nothing was logged. Raises DataError if that line is damaged."""
    return read_last(path, MetricsRecord, _REMEDY)


def discard_metrics_from(path: Path, step: int) -> None:
    """Remove records of ``step`` and later steps, which a resumed run will log again."""
    keep_records(path, MetricsRecord, lambda record: record.step < step, _REMEDY)
