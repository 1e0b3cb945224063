"""What a run writes about itself: ``metrics.jsonl``, TensorBoard events, and a line for the terminal."""

import math
import resource
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from hpc_jepa.config.training import MonitorConfig
from hpc_jepa.distributed import is_main, sum_over_processes, world_size
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.io.jsonl import JsonlWriter
from hpc_jepa.profiling.mfu import flops_rates
from hpc_jepa.runs.metrics_log import MetricsRecord, discard_metrics_from
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.divergence import DivergenceMonitor
from hpc_jepa.training.health import TargetHealth
from hpc_jepa.training.nonfinite import SkippedSteps, skipped_from_counts
from hpc_jepa.training.schedules import ScheduleValues

OnLog = Callable[[MetricsRecord], None]


class MetricsLogger:
    """Collects the figures of each logged step on the device and writes them one step later, when they have arrived.

    As a context it closes its files; what is pending is written unless the block fails.
    """

    def __init__(
        self,
        run: RunDir,
        config: MonitorConfig,
        *,
        divergence: DivergenceMonitor,
        batch_size: int,
        first: int,
        on_log: OnLog,
    ) -> None:
        self._config = config
        self._divergence = divergence
        self._batch_size = batch_size
        self._on_log = on_log
        self._file = _open_log(run, first) if is_main() else None
        self._events = (
            SummaryWriter(str(run.events_dir), purge_step=first) if is_main() and config.tensorboard else None
        )
        self._pending: _Pending | None = None
        self.figures: dict[str, float] = {}
        """The last written figures, by their names in TensorBoard."""
        self.flops = 0
        """Floating-point operations of all steps of this process."""
        self._since, self._clips, self._flops, self._waited = time.perf_counter(), 0, 0, 0.0

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def should_log(self, step: int) -> bool:
        """Whether ``step`` is logged."""
        return step % self._config.log_every == 0

    def should_log_health(self, step: int) -> bool:
        """Whether the logged line of ``step`` includes the health of the target."""
        return step % self._config.health_every == 0

    def count(self, flops: int) -> None:
        """Another step is done, with so many floating-point operations in this process."""
        self._clips += self._batch_size
        self.flops += flops

    def record(
        self,
        step: int,
        figures: dict[str, Tensor],
        coefficients: dict[str, float],
        schedule_values: ScheduleValues,
        health: TargetHealth | None,
        skipped: Tensor,
        waited: float,
    ) -> None:
        """Take the figures of a logged step (collective: they are averaged over processes)."""
        self.flush()
        if health is not None:
            figures = figures | {f"health.{name}": value for name, value in health._asdict().items()}
        stacked = torch.stack([value.detach().float() for value in figures.values()])
        averaged = torch.cat([sum_over_processes(stacked) / world_size(), skipped]).to("cpu", non_blocking=True)
        now = time.perf_counter()
        line = {
            "step": step,
            "time": time.time(),
            "coefficients": coefficients,
            **schedule_values._asdict(),
            "clips_per_second": self._clips / (now - self._since),
            **flops_rates(self.flops - self._flops, now - self._since),
            "data_wait_share": min((waited - self._waited) / (now - self._since), 1.0),
            "memory_bytes": _memory(),
        }
        self._since, self._clips, self._flops, self._waited = now, 0, self.flops, waited
        self._pending = _Pending(line, list(figures), averaged)

    def flush(self) -> None:
        """Write the pending line.

        Raises HpcJepaError, on all processes alike, when a figure is not a finite number though the step was done, and
        where an alarm stops the run.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        figures, skipped = pending.arrived()
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        step = pending.line["step"]
        if broken and not skipped.steps:
            raise HpcJepaError(f"step {step}: {', '.join(broken)} is not finite; lower schedule.lr or use fp32")
        record = _record(pending.line | {"skipped_steps": skipped.steps}, figures)
        self._write(record)
        self._divergence.check(record, skipped)

    def flush_to_disk(self) -> None:
        """Write what is pending and wait until the disk has it: a checkpoint must not be ahead of its figures."""
        self.flush()
        if self._file is not None:
            self._file.fsync()

    def _write(self, record: MetricsRecord) -> None:
        scalars = record.scalars()
        self.figures = {name: value for name, value in scalars.items() if math.isfinite(value)}
        if self._file is not None:
            self._file.write(record.model_dump(exclude_none=True))
        if self._events is not None:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, record.step)
        self._on_log(record)


class _Pending(NamedTuple):
    """A line that waits for its figures: those of ``names``, and the counts of the guard, in one transfer."""

    line: dict[str, Any]
    names: list[str]
    transfer: Tensor

    def arrived(self) -> tuple[dict[str, float], SkippedSteps]:
        """Figures by name, and the steps that were skipped."""
        values = self.transfer.tolist()
        return dict(zip(self.names, values, strict=False)), skipped_from_counts(values[len(self.names) :])


def _record(line: dict[str, Any], figures: dict[str, float]) -> MetricsRecord:
    """Terms and health in groups of their own."""
    special = ("loss", "gradient_norm")
    health = {name.removeprefix("health."): value for name, value in figures.items() if name.startswith("health.")}
    terms = {name: v for name, v in figures.items() if name not in special and not name.startswith("health.")}
    head = {name: figures[name] for name in special}
    return MetricsRecord.model_validate({**line, **head, "terms": terms, "health": health or None})


def _open_log(run: RunDir, first: int) -> JsonlWriter:
    """``metrics.jsonl`` without the steps that will be run again."""
    discard_metrics_from(run.metrics_file, first)
    return JsonlWriter(run.metrics_file)


def _memory() -> int:
    """Peak bytes: of the device where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
