"""Estimate the cost of a study: GPU-hours, days, disk, GPU memory; from measured step times if there are any."""

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.runs.metrics_log import last_metrics
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.gpu_memory import MemoryPlan, checkpoint_bytes, memory_plan
from hpc_jepa.study.sizes import model_size
from hpc_jepa.study.status import has_records, is_only_evaluated

ASSUMED_MFU = 0.3
"""Model FLOP utilisation that is assumed as long as no step was measured."""

LAUNCH_SECONDS = 10e-6
"""Host time of one kernel in eager mode, assumed: 4 to 6 us were measured for a launch from C with CUDA 13, driver 580
(susun-blog.com/blog/pegainfer-3-cuda-graph), and PyTorch's dispatcher and autograd are taken to double it.
"""

HOUR = 3600


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, and the source of that number. ``launch_bound``: the GPUs wait for launches of kernels."""

    seconds: float
    source: str
    launch_bound: bool = False


@dataclass(frozen=True)
class RegimeForecast:
    """Cost of all cells of one regime. ``seconds``: training time of one run; None if unknown. ``disk``: bytes."""

    regime: str
    cells: int
    step: StepTime | None
    seconds: float | None
    gpu_hours: float | None
    disk: float
    memory: MemoryPlan


@dataclass(frozen=True)
class StudyForecast:
    """Cost of the whole study. ``days``: training. ``evaluation_days``: upper bound from time limits."""

    regimes: Sequence[RegimeForecast]
    gpu_hours: float | None
    days: float | None
    evaluation_days: float
    disk: float
    arrays: int


def forecast_study(
    cells: Sequence[StudyCell], cluster: ClusterConfig, step_seconds: float | None = None
) -> StudyForecast:
    """Estimate the cost of all cells on a cluster. Runs of one regime and length are assumed to take equally long.

    Trained runs of other studies cost nothing, nor do their evaluations that have a record.
    """
    by_regime: dict[str, list[StudyCell]] = {}
    trainings = [cell for cell in cells if not is_only_evaluated(cell)]
    evaluations = [cell for cell in cells if cell.evaluations and not (is_only_evaluated(cell) and has_records(cell))]
    lengths = {(cell.config.regime, cell.steps) for cell in trainings}
    several = Counter(regime for regime, _ in lengths)
    for cell in trainings:
        regime, steps = cell.config.regime, cell.steps
        by_regime.setdefault(f"{regime}, {steps:,} steps" if several[regime] > 1 else regime, []).append(cell)
    regimes = [_regime_forecast(name, group, cluster, step_seconds) for name, group in by_regime.items()]
    hours = [regime.gpu_hours for regime in regimes if regime.gpu_hours is not None]
    known = all(regime.seconds is not None for regime in regimes)
    runs = [regime.seconds for regime in regimes if regime.seconds is not None for _ in range(regime.cells)]
    ends = node_ends(runs, cluster.train.cells_per_job, cluster.max_concurrent_jobs)
    rounds = math.ceil(len(evaluations) / (cluster.max_concurrent_jobs * cluster.evaluate.cells_of_job))
    return StudyForecast(
        regimes,
        gpu_hours=sum(hours) if known else None,
        days=max(ends, default=0.0) / HOUR / 24 if known else None,
        evaluation_days=rounds * cluster.evaluate.time / 60 / 24,
        disk=sum(regime.disk for regime in regimes),
        arrays=sum(math.ceil(len(each) / cluster.array_limit) for each in (trainings, evaluations)),
    )


def step_time(cells: Sequence[StudyCell], cluster: ClusterConfig, given: float | None = None) -> StepTime | None:
    """Step time as given, else measured by runs of these cells, else from FLOPs and launches, else None."""
    if given is not None:
        return StepTime(given, "as given")
    measured = [seconds for cell in cells if (seconds := _measured(cell)) is not None]
    if measured:
        return StepTime(median(measured), f"measured (runs: {len(measured)})")
    if cluster.gpu_tflops is None or not cluster.train.gpus:
        return None
    return estimated_step(cells[0].config, cluster.gpu_tflops, cluster.train.gpus, cluster.train.cells_per_gpu)


def estimated_step(config: RunConfig, gpu_tflops: float, gpus: int, cells_per_gpu: int = 1) -> StepTime:
    """From FLOPs, but not less than the launches of the kernels take; torch.compile fuses them to an unknown number.

    Cells that share a GPU divide its arithmetic, and launch their kernels at the same time.
    """
    size = model_size(config)
    arithmetic = size.flops / (gpu_tflops * 1e12 * ASSUMED_MFU * gpus / cells_per_gpu)
    launches = 0.0 if config.engine.compile else size.kernels * LAUNCH_SECONDS
    if launches > arithmetic:
        clips = config.engine.batch_size / gpus
        source = (
            f"estimated: {size.kernels:,} kernel launches of {1e6 * LAUNCH_SECONDS:g} us; the arithmetic of "
            f"{clips:g} clips per GPU takes {1e3 * arithmetic:.1f} ms"
        )
        return StepTime(launches, source, launch_bound=True)
    source = f"estimated: {ASSUMED_MFU:.0%} MFU at {gpu_tflops:g} TFLOP/s per GPU, without data wait"
    return StepTime(arithmetic, source)


def node_ends(runs: Sequence[float], slots: int, nodes: int) -> list[float]:
    """When each node that is used ends, if every free slot takes the next run, the longest first."""
    used = min(nodes, -(-len(runs) // slots))
    free = [(0.0, node, slot) for node in range(used) for slot in range(slots)]
    ends = [0.0] * used
    for seconds in sorted(runs, reverse=True):
        start, node, slot = heapq.heappop(free)
        ends[node] = max(ends[node], start + seconds)
        heapq.heappush(free, (start + seconds, node, slot))
    return ends


def _regime_forecast(
    name: str, cells: Sequence[StudyCell], cluster: ClusterConfig, given: float | None
) -> RegimeForecast:
    config, step = cells[0].config, step_time(cells, cluster, given)
    seconds = step.seconds * cells[0].steps if step else None
    gpus = cluster.train.gpus / cluster.train.cells_per_gpu
    checkpoints = config.checkpoint.keep + 1  # the old one is deleted after the new one is written
    return RegimeForecast(
        name,
        len(cells),
        step,
        seconds,
        gpu_hours=len(cells) * seconds * gpus / HOUR if seconds is not None else None,
        disk=len(cells) * checkpoints * checkpoint_bytes(config),
        memory=memory_plan(config, cluster.train.processes),
    )


def _measured(cell: StudyCell) -> float | None:
    metrics = last_metrics(cell.run.metrics_file)
    speed = metrics.clips_per_second if metrics else None
    return cell.config.engine.batch_size / speed if speed else None
