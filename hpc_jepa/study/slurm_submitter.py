"""Submit tasks of a study as Slurm job arrays, through submitit."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from hpc_jepa.config.cluster import Profile, ResourcesConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import shipped_dir
from hpc_jepa.study.job_log import SubmittedJob
from hpc_jepa.study.task import StudyTask, TaskKind, run_in_job

AFTER_SRUN = shipped_dir("slurm") / "after_srun.sh"

SBATCH_ERROR_KEYS = {
    "account": ("account",),
    "partition": ("partition",),
    "qos": ("qos",),
    "time": ("time limit", "timelimit"),
    "constraint": ("feature",),
    "reservation": ("reservation",),
    "memory_gib": ("memory",),
    "gpus_per_node": ("gres", "gpu", "node configuration", "node count", "cpu"),
}
"""Keys of a profile, and the parts of sbatch error messages that point to each key."""


@dataclass(frozen=True)
class SlurmSubmitter:
    """Submits tasks with the settings of one profile; batch scripts, pickles and job output go to ``folder``."""

    profile: Profile
    folder: Path
    study: str

    def submit_array(self, tasks: Sequence[StudyTask], dependency: str | None = None) -> list[SubmittedJob]:
        """Submit tasks as one job array; a single task as a plain job.

        Raises InputError with sbatch's own message and the profile key at fault.
        """
        executor = SlurmExecutor(self.folder, python=self.profile.cluster.python)
        kind = tasks[0].kind
        executor.update_parameters(**self._parameters(kind, dependency))
        try:
            # submitit also prints the error
            with redirect_stderr(StringIO()), _outside_of_job():
                queued = executor.map_array(run_in_job, tasks)
        except FailedJobError as error:
            raise InputError(self._sbatch_error(kind, " ".join(str(error).split()))) from error
        now = time.time()
        return [
            SubmittedJob(job=job.job_id, kind=task.kind, folder=task.folder, cluster=self.profile.name, time=now)
            for job, task in zip(queued, tasks, strict=True)
        ]

    def _parameters(self, kind: TaskKind, dependency: str | None) -> dict[str, Any]:
        """Parameters of the batch script; submitit omits those that are None."""
        cluster, resources = self.profile.cluster, self._resources(kind)
        cpus = resources.cpus_per_node // resources.tasks
        options: dict[str, str | int | bool] = {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.sbatch}
        if cluster.reservation:
            options["reservation"] = cluster.reservation
        return {
            "job_name": f"{self.study}-{kind}",
            "partition": ",".join(cluster.partition) or None,
            "account": cluster.account,
            "qos": cluster.qos,
            "constraint": cluster.constraint,
            "exclude": ",".join(cluster.exclude) or None,
            "time": resources.time,
            "nodes": resources.nodes,
            "ntasks_per_node": resources.tasks,
            "cpus_per_task": cpus,
            "gpus_per_node": resources.gpus_per_node or None,
            "mem": f"{round(resources.memory_gib * 1024)}M" if resources.memory_gib else None,
            "dependency": dependency,
            "array_parallelism": cluster.max_concurrent_jobs,
            "signal_delay_s": cluster.signal_seconds,
            "wckey": None,
            "additional_parameters": options,
            "setup": self._setup(resources),
            # srun ignores sbatch's --cpus-per-task; --wait ends the others 60 s after the first process.
            "srun_args": [f"--cpus-per-task={cpus}", "--wait=60", *cluster.srun_options],
            "teardown": [f"bash {shlex.quote(str(AFTER_SRUN))} $?"],
        }

    def _setup(self, resources: ResourcesConfig) -> list[str]:
        """Shell lines before srun."""
        cluster = self.profile.cluster
        variables = {**cluster.nccl.environment, **cluster.environment}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append(f"export HPC_JEPA_JOB_END_TIME=$(($(date +%s) + {60 * resources.time}))")
        if cluster.shared_memory_gib:
            required = round(cluster.shared_memory_gib * 2**20)
            message = f"error: less than {cluster.shared_memory_gib} GiB free in /dev/shm of $(hostname)"
            lines.append(
                f'[ "$(df --output=avail /dev/shm | tail -n 1)" -ge {required} ] || {{ echo "{message}" >&2; exit 1; }}'
            )
        return [*lines, *cluster.setup]

    def _resources(self, kind: TaskKind) -> ResourcesConfig:
        cluster = self.profile.cluster
        return {"train": cluster.train, "evaluate": cluster.evaluate, "follow": cluster.evaluate}.get(
            kind, cluster.report
        )

    def _sbatch_error(self, kind: TaskKind, message: str) -> str:
        """The message of sbatch after file, line and key of the profile at fault; without line and key if unknown."""
        lowered = message.lower()
        for key, phrases in SBATCH_ERROR_KEYS.items():
            if any(phrase in lowered for phrase in phrases):
                per_kind = key in ResourcesConfig.model_fields
                section = {"train": "train", "evaluate": "evaluate", "follow": "evaluate"}.get(kind, "report")
                return f"{self.profile.location(f'{section}.{key}' if per_kind else key)}: {message}"
        return f"{self.profile.path}: {message}"


@contextmanager
def _outside_of_job() -> Iterator[None]:
    """Without the variables of the Slurm job that this process runs in, if any: sbatch would take them as options."""
    names = [name for name in os.environ if _is_of_job(name)]
    inherited = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(inherited)


def _is_of_job(name: str) -> bool:
    """SLURM_CONF tells the commands where the cluster is."""
    return "SLURM_JOB_ID" in os.environ and name.startswith(("SLURM_", "SRUN_", "PMI")) and name != "SLURM_CONF"
