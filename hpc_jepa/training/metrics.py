"""Log the metrics of a run: ``metrics.jsonl``, TensorBoard events, a callback for the terminal; start-up times."""

import logging
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from hpc_jepa.config.training import MonitorConfig
from hpc_jepa.devices import thread_pool
from hpc_jepa.distributed import is_main, sum_over_processes, world_size
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.io.jsonl import JsonlWriter
from hpc_jepa.profiling.mfu import flops_rates
from hpc_jepa.runs.metrics_log import MetricsRecord, discard_metrics_from
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.batches import DataCounts
from hpc_jepa.training.divergence import DivergenceMonitor, TargetHealth, effective_rank
from hpc_jepa.training.nonfinite import SkippedSteps
from hpc_jepa.training.schedules import ScheduleValues

LOG = logging.getLogger(__name__)
LAYOUT = {
    "loss": {"loss": ["^loss$"], "terms": ["^terms/"], "coefficients": ["^coefficients/"]},
    "health": {
        "target std": ["^health/target_std$"],
        "effective rank": ["^health/effective_rank$"],
        "gradient norm": ["^gradient_norm$"],
        "skipped steps": ["^skipped_steps$", "^overflow_steps$"],
        "loss scale": ["^loss_scale$"],
    },
    "schedule": {"learning rate": ["^learning_rate$"], "weight decay": ["^weight_decay$"], "EMA": ["^ema$"]},
    "speed": {
        "clips per second": ["^clips_per_second$"],
        "TFLOP/s": ["^tflops_per_second$"],
        "MFU and wait for data": ["^mfu$", "^data_wait_share$"],
        "memory": ["^memory_bytes$"],
        "passes": ["^passes/"],
    },
}
"""Charts of TensorBoard's tab Custom Scalars: category -> title -> patterns of metric names."""
STEP_METRICS, SCALE_METRICS = ("loss", "gradient_norm"), ("loss_scale", "overflow_steps")
"""Metrics that are no terms of the loss; the second group exists in fp16 only."""
OnLog = Callable[[MetricsRecord], None]
"""Called on every rank with each record that is logged."""


class HostCopy:
    """A copy to the host that runs while the host continues."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)  # into pinned memory
        self._copied = torch.cuda.Event(blocking=True) if tensor.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> Tensor:
        """The tensor on the host, once it has arrived; work that was queued later goes on."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host


class MetricsLogger:
    """Copies the metrics of a logged step to the host asynchronously and writes them at the next logged step.

    Leaving the context writes the pending record, unless an exception was raised, and closes the files.
    """

    def __init__(
        self,
        run: RunDir,
        config: MonitorConfig,
        *,
        divergence: DivergenceMonitor,
        batch_size: int,
        first_step: int,
        on_log: OnLog,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> None:
        """gather: rows of all processes on the CPU, as :meth:`GlooGroup.gather`."""
        self._config = config
        self._divergence = divergence
        self._batch_size = batch_size
        self._on_log = on_log
        self._file = _open_log(run, first_step) if is_main() else None
        self._events: SummaryWriter | None = None
        with self._tensorboard():
            if is_main() and config.tensorboard:
                self._events = SummaryWriter(str(run.events_dir), purge_step=first_step)
                self._events.add_custom_scalars(_multiline(LAYOUT))
        self._gather = gather
        self._rank_thread = thread_pool(1, "effective-rank")
        self._pending: _PendingRecord | None = None
        self.last: dict[str, float] = {}
        """Finite metrics of the last written record, by their TensorBoard names."""
        self.flops = 0
        """Floating-point operations of this rank since the start."""
        self._window_start, self._window_clips, self._window_flops, self._window_wait = time.perf_counter(), 0, 0, 0.0

    def __enter__(self) -> "MetricsLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        self._rank_thread.shutdown()
        if self._file is not None:
            self._file.close()
        with self._tensorboard() as events:
            if events is not None:
                events.close()

    def should_log(self, step: int) -> bool:
        """Whether ``step`` is logged."""
        return step % self._config.log_every == 0

    def should_log_health(self, step: int) -> bool:
        """Whether the record of ``step`` includes the collapse metrics."""
        return step % self._config.health_every == 0

    def count_step(self, flops: int) -> None:
        """Count one step with ``flops`` floating-point operations on this rank."""
        self._window_clips += self._batch_size
        self.flops += flops

    def log(
        self,
        step: int,
        metrics: dict[str, Tensor],
        coefficients: dict[str, float],
        schedule_values: ScheduleValues,
        health: TargetHealth | None,
        skipped: Tensor,
        data_wait_seconds: float,
        counts: DataCounts,
    ) -> None:
        """Log a step. ``metrics`` (scalars) are averaged over ranks. Collective."""
        self.flush()
        effective_ranks = None
        if health is not None:
            metrics = metrics | {"health.target_std": health.target_std}
            if health.covariance.is_cpu:
                metrics["health.effective_rank"] = effective_rank(health.covariance)
            else:
                effective_ranks = self._effective_ranks(health.covariance)
        stacked = torch.stack([value.detach().float() for value in metrics.values()])
        averaged = HostCopy(torch.cat([sum_over_processes(stacked) / world_size(), skipped]))
        now = time.perf_counter()
        seconds = now - self._window_start
        values = {
            "step": step,
            "time": time.time(),
            "coefficients": coefficients,
            "passes": counts.passes,
            "shared_clips": counts.shared_clips,
            **schedule_values._asdict(),
            "clips_per_second": self._window_clips / seconds,
            **flops_rates(self.flops - self._window_flops, seconds),
            "data_wait_share": min((data_wait_seconds - self._window_wait) / seconds, 1.0),
            "memory_bytes": _peak_memory(),
        }
        self._window_start, self._window_clips = now, 0
        self._window_flops, self._window_wait = self.flops, data_wait_seconds
        self._pending = _PendingRecord(values, list(metrics), averaged, effective_ranks)

    def _effective_ranks(self, covariance: Tensor) -> Callable[[], float]:
        """Compute :func:`effective_rank` in a thread on the CPU; returns a function that waits for the mean over ranks.

        Collective when called.
        """
        copy = HostCopy(covariance)
        local = self._rank_thread.submit(lambda: effective_rank(copy.wait()).float())
        return lambda: self._gather(local.result()[None]).mean().item()

    def flush(self) -> None:
        """Write the pending record.

        Raises HpcJepaError, on all ranks alike, if a metric is non-finite although its step was not skipped, or if the
        divergence monitor stops the run.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        record, skipped = pending.resolve()
        nonfinite = [name for name, value in record.scalars().items() if not math.isfinite(value)]
        if nonfinite and not skipped.steps and not record.overflow_steps:
            raise HpcJepaError(f"step {record.step}: {', '.join(nonfinite)} non-finite; lower schedule.lr or use fp32")
        self._write(record)
        self._divergence.check(record, skipped)

    def flush_to_disk(self) -> None:
        """Write the pending record and fsync: a checkpoint must not be ahead of its metrics."""
        self.flush()
        if self._file is not None:
            self._file.fsync()

    def _write(self, record: MetricsRecord) -> None:
        scalars = record.scalars()
        self.last = {name: value for name, value in scalars.items() if math.isfinite(value)}
        if self._file is not None:
            self._file.write(record.model_dump(exclude_none=True))
        with self._tensorboard() as events:
            if events is not None:
                for name, value in scalars.items():
                    events.add_scalar(name, value, record.step)
        self._on_log(record)

    @contextmanager
    def _tensorboard(self) -> Iterator[SummaryWriter | None]:
        """The TensorBoard log, None after a write to it has failed: ``metrics.jsonl`` has all metrics."""
        try:
            yield self._events
        except OSError as error:
            self._events = None
            LOG.warning("TensorBoard events end here (%s); metrics.jsonl goes on", error.strerror)


class _PendingRecord(NamedTuple):
    """A record whose metrics, and the counts of skipped steps behind them, are being copied to the host."""

    values: dict[str, Any]
    names: list[str]
    transfer: HostCopy
    effective_ranks: Callable[[], float] | None

    def resolve(self) -> tuple[MetricsRecord, SkippedSteps]:
        """The record, and the skipped steps since the one before. Waits for the copy. Collective."""
        numbers = self.transfer.wait().tolist()
        metrics = dict(zip(self.names, numbers, strict=False))
        skipped = SkippedSteps.from_counts(numbers[len(self.names) :])
        health = {name.removeprefix("health."): metrics.pop(name) for name in self.names if name.startswith("health.")}
        if self.effective_ranks is not None:
            health["effective_rank"] = self.effective_ranks()
        known = {name: metrics.pop(name) for name in (*STEP_METRICS, *SCALE_METRICS) if name in metrics}
        record = MetricsRecord.model_validate(
            self.values | known | {"terms": metrics, "health": health or None} | {"skipped_steps": skipped.steps}
        )
        return record, skipped


class StartupTimer:
    """Seconds of each start-up phase since the process was created, up to the first step."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = psutil.Process().create_time()

    def phase_done(self, phase: str) -> None:
        """End ``phase``, which began when the previous one ended."""
        now = time.time()
        self._seconds[phase] = now - self._last
        self._last = now

    def log(self) -> None:
        """Log all phases on one line."""
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self._seconds.items())
        LOG.info("first step after %.1f s: %s", sum(self._seconds.values()), phases)


def _open_log(run: RunDir, first_step: int) -> JsonlWriter:
    """``metrics.jsonl`` without the steps that will be repeated."""
    discard_metrics_from(run.metrics_file, first_step)
    return JsonlWriter(run.metrics_file)


def _multiline(layout: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, tuple[str, list[str]]]]:
    return {
        category: {title: ("Multiline", tags) for title, tags in charts.items()} for category, charts in layout.items()
    }


def _peak_memory() -> int:
    """Peak bytes allocated on the GPU, or the peak resident set size of the process without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
