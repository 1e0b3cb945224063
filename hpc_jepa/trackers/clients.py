"""The trackers behind one interface: scalars by step, and the configuration once. No pixels, no code, no output."""

import os
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.trackers import TrackerName
from hpc_jepa.config.training import MonitorConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.flatten import flatten
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.trackers.identity import TrackedRun, run_name

End = Literal["done", "interrupted", "failed"]
EVALUATION = "eval"
"""First part of the names of evaluation results."""

HIDDEN = "-"
"""Name of the machine for Weights & Biases, which stores one."""

MLFLOW_BATCH = 100
"""Parameters that MLflow accepts in one call."""
MLFLOW_VALUE = 6000
"""Longest value of an MLflow parameter."""


class TrackerClient(Protocol):
    """One run in a tracker. Methods raise what the tracker raises."""

    def last_step(self) -> int | None:
        """Last step that the tracker has, -1 without any; None if it cannot say."""

    def log(self, scalars: dict[str, float], step: int, time: float) -> None:
        """Log the metrics of a step, whose Unix time is ``time``."""

    def log_evaluation(self, scalars: dict[str, float], step: int, time: float) -> None:
        """Log results of the checkpoint after ``step`` steps, which may be older than the last metrics."""

    def close(self, end: End) -> None:
        """Hand everything over; ``end``: how the run ended."""


def require_trackers(monitor: MonitorConfig) -> None:
    """Raise InputError naming the extra if the package of a tracker is not installed."""
    for name in monitor.trackers:
        if find_spec(name) is None:
            raise InputError(
                f"monitor.trackers: {name} is not installed; pip install 'hpc_jepa[{name}]', or remove it from the list"
            )


def open_client(name: TrackerName, run: RunDir, tracked: TrackedRun) -> TrackerClient:
    """Begin or continue the run in a tracker. Imports the tracker's package."""
    return CLIENTS[name](run, run.config, tracked)


class WandbClient:
    """Weights & Biases. Its own collection of output, code, host and system data is switched off."""

    def __init__(self, run: RunDir, config: RunConfig, tracked: TrackedRun) -> None:
        wandb = import_module("wandb")
        chosen = tracked.monitor.wandb
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            host=HIDDEN,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=tracked.project(chosen.project, config),
            entity=chosen.entity,
            mode=chosen.mode,
            id=tracked.id,
            resume="allow",
            name=run_name(config),
            group="/".join(config.folder.parts[-3:-1]),
            config=config.model_dump(mode="json"),
            allow_val_change=True,
            dir=str(run.trackers_dir),
            settings=settings,
        )
        self._run.define_metric(f"{EVALUATION}/*", step_metric=f"{EVALUATION}/step")

    def last_step(self) -> int | None:
        """Unknown offline, and steps that are sent again are dropped by the server."""
        return None

    def log(self, scalars: dict[str, float], step: int, time: float) -> None:
        """See :class:`TrackerClient`."""
        self._run.log(scalars, step=step)

    def log_evaluation(self, scalars: dict[str, float], step: int, time: float) -> None:
        """Steps of wandb only grow, so results have an axis of their own."""
        self._run.log({**scalars, f"{EVALUATION}/step": step})

    def close(self, end: End) -> None:
        """See :class:`TrackerClient`."""
        if end == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=int(end != "done"))


class MlflowClient:
    """MLflow, through its client alone: no autologging, no system metrics, no artifacts."""

    TAG = "hpc_jepa.id"
    ENDS = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}  # noqa: RUF012 - read only

    def __init__(self, run: RunDir, config: RunConfig, tracked: TrackedRun) -> None:
        chosen = tracked.monitor.mlflow
        uri = chosen.uri or os.environ.get("MLFLOW_TRACKING_URI") or database(run)
        self._entities = import_module("mlflow.entities")
        self._client = import_module("mlflow").MlflowClient(tracking_uri=uri)
        name = tracked.project(chosen.experiment, config)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        known = self._client.search_runs([experiment], f"tags.`{self.TAG}` = '{tracked.id}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
        else:
            tags = {self.TAG: tracked.id, "mlflow.source.name": "hpc-jepa"}
            self._id = self._client.create_run(experiment, tags=tags, run_name=run_name(config)).info.run_id
            self._log_parameters(config)

    def _log_parameters(self, config: RunConfig) -> None:
        settings = flatten(config.model_dump(mode="json"))
        values = [(_mlflow_name(key), str(value)[:MLFLOW_VALUE]) for key, value in settings.items()]
        parameters = [self._entities.Param(key, value) for key, value in values]
        for start in range(0, len(parameters), MLFLOW_BATCH):
            self._client.log_batch(self._id, params=parameters[start : start + MLFLOW_BATCH])

    def last_step(self) -> int | None:
        """Last step with a loss."""
        return max((metric.step for metric in self._client.get_metric_history(self._id, "loss")), default=-1)

    def log(self, scalars: dict[str, float], step: int, time: float) -> None:
        """See :class:`TrackerClient`."""
        stamp = int(1000 * time)
        metrics = [self._entities.Metric(_mlflow_name(name), value, stamp, step) for name, value in scalars.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def log_evaluation(self, scalars: dict[str, float], step: int, time: float) -> None:
        """See :class:`TrackerClient`."""
        self.log(scalars, step, time)

    def close(self, end: End) -> None:
        """See :class:`TrackerClient`."""
        self._client.set_terminated(self._id, self.ENDS[end])


class TrackioClient:
    """Trackio, in a local folder or a Space. Its own collection of GPU and CPU data is switched off."""

    def __init__(self, run: RunDir, config: RunConfig, tracked: TrackedRun) -> None:
        chosen = tracked.monitor.trackio
        self._run = import_module("trackio").init(
            tracked.project(chosen.project, config),
            name=f"{run_name(config).replace('/', '.')}.{tracked.id[:8]}",
            group=".".join(config.folder.parts[-3:-1]),
            space_id=chosen.space,
            config=config.model_dump(mode="json"),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def last_step(self) -> int | None:
        """Trackio's step includes those of evaluations."""
        return None

    def log(self, scalars: dict[str, float], step: int, time: float) -> None:
        """See :class:`TrackerClient`."""
        self._run.log(scalars, step=step)

    def log_evaluation(self, scalars: dict[str, float], step: int, time: float) -> None:
        """See :class:`TrackerClient`."""
        self._run.log(scalars, step=step)

    def close(self, end: End) -> None:
        """See :class:`TrackerClient`."""
        self._run.finish()


CLIENTS: dict[TrackerName, type[WandbClient] | type[MlflowClient] | type[TrackioClient]] = {
    "wandb": WandbClient,
    "mlflow": MlflowClient,
    "trackio": TrackioClient,
}


def database(run: RunDir) -> str:
    """MLflow's database beside the studies: RUNS/mlflow.db."""
    return f"sqlite:///{Path(run.path).resolve().parents[3] / 'mlflow.db'}"


def _mlflow_name(name: str) -> str:
    """Name with the characters that MLflow accepts."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def environment(variables: dict[str, Any]) -> dict[str, str]:
    """Environment of a process that feeds a tracker: no GPU, no rank, no reports of usage to the makers."""
    launch = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in variables.items() if name not in launch}
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_SILENT": "true"}
    return {**kept, **quiet, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
