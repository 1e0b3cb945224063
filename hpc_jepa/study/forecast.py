"""What a study will take: GPU-hours, days, disk, memory, from measured steps where there are any."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.runs.metrics_log import last_metrics
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.gpu_memory import MemoryPlan, checkpoint_bytes, memory_plan
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.study.sizes import model_size

ASSUMED_MFU = 0.3
"""Share of a GPU's peak rate that is assumed to be reached before anything was measured."""

HOUR = 3600


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, and where that is known from."""

    seconds: float
    source: str


@dataclass(frozen=True)
class RegimeForecast:
    """Of the cells of one regime. ``seconds``: of one run, start to end, without its evaluations; None: not known."""

    regime: str
    cells: int
    step: StepTime | None
    seconds: float | None
    gpu_hours: float | None
    disk: float
    memory: MemoryPlan


@dataclass(frozen=True)
class StudyForecast:
    """Of the whole study. ``days`` of training, and of evaluation if each takes all of its time limit."""

    regimes: Sequence[RegimeForecast]
    gpu_hours: float | None
    days: float | None
    evaluation_days: float
    disk: float
    arrays: int


def forecast_study(
    cells: Sequence[StudyCell], cluster: ClusterConfig, step_seconds: float | None = None
) -> StudyForecast:
    """What the cells take on a cluster. Runs of one regime are taken to be equally long."""
    by_regime: dict[str, list[StudyCell]] = {}
    for cell in cells:
        by_regime.setdefault(cell.config.regime, []).append(cell)
    regimes = [_of_regime(name, group, cluster, step_seconds) for name, group in by_regime.items()]
    hours = [each.gpu_hours for each in regimes]
    seconds = [each.seconds * each.cells for each in regimes if each.seconds is not None]
    known = len(seconds) == len(regimes)
    parts = math.ceil(len(cells) / cluster.array_limit)
    judged = any(cell.evaluations for cell in cells)
    return StudyForecast(
        regimes,
        gpu_hours=sum(hour for hour in hours if hour is not None) if known else None,
        days=sum(seconds) / min(cluster.at_once, len(cells)) / HOUR / 24 if known else None,
        evaluation_days=math.ceil(len(cells) / cluster.at_once) * cluster.evaluate.time / 60 / 24 if judged else 0.0,
        disk=sum(each.disk for each in regimes),
        arrays=parts * (2 if judged else 1),
    )


def step_time(cells: Sequence[StudyCell], cluster: ClusterConfig, given: float | None = None) -> StepTime | None:
    """Given, measured by runs of these cells, or from arithmetic and the GPU's peak rate; None without any of them."""
    if given is not None:
        return StepTime(given, "as given")
    measured = [seconds for cell in cells if (seconds := _measured(cell)) is not None]
    if measured:
        return StepTime(median(measured), f"measured, {len(measured)} runs")
    if cluster.gpu_tflops is None or not cluster.train.gpus:
        return None
    rate = cluster.gpu_tflops * 1e12 * ASSUMED_MFU * cluster.train.gpus
    words = f"assumed: {ASSUMED_MFU:.0%} of {cluster.gpu_tflops:g} TFLOP/s on each GPU, data always ready"
    return StepTime(model_size(cells[0].config).flops / rate, words)


def _of_regime(name: str, cells: Sequence[StudyCell], cluster: ClusterConfig, given: float | None) -> RegimeForecast:
    config, step = cells[0].config, step_time(cells, cluster, given)
    seconds = step.seconds * config.schedule.steps if step else None
    kept = config.checkpoint.keep + 1  # one more while it is written
    return RegimeForecast(
        name,
        len(cells),
        step,
        seconds,
        gpu_hours=len(cells) * seconds * cluster.train.gpus / HOUR if seconds is not None else None,
        disk=len(cells) * kept * checkpoint_bytes(config),
        memory=memory_plan(config, cluster.train.processes),
    )


def _measured(cell: StudyCell) -> float | None:
    metrics = last_metrics(RunDir(cell.folder).metrics_file)
    speed = metrics.clips_per_second if metrics else None
    return cell.config.engine.batch_size / speed if speed else None
