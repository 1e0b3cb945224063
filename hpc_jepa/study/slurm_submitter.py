"""Submit tasks of a study as Slurm job arrays, through submitit."""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
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
from hpc_jepa.study.cell_pool import CellPool
from hpc_jepa.study.job_log import SubmittedJob
from hpc_jepa.study.packed_job import PackedJob, run_packed_in_job
from hpc_jepa.study.packed_slots import CellShape
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
        kind = tasks[0].kind
        jobs = self._submit(kind, run_in_job, tasks, self._parameters(kind, dependency))
        return [self._submitted(job, task.kind, task.folder) for job, task in zip(jobs, tasks, strict=True)]

    def submit_packed(
        self, pool: CellPool, numbers: Sequence[int], dependency: str | None = None
    ) -> list[SubmittedJob]:
        """Submit as many packed jobs as these tasks of a pool need; each task with the job that prefers it.

        Raises InputError like ``submit_array``.
        """
        kind = pool.tasks[numbers[0]].kind
        shape = self._shape(kind)
        packs = [numbers[first : first + shape.cells_of_job] for first in range(0, len(numbers), shape.cells_of_job)]
        jobs = [PackedJob(pool.path, pack[0], shape) for pack in packs]
        ids = self._submit(kind, run_packed_in_job, jobs, self._packed_parameters(kind, dependency))
        return [
            self._submitted(job, kind, pool.tasks[number].folder, pool.path)
            for job, pack in zip(ids, packs, strict=True)
            for number in pack
        ]

    def _submit(
        self, kind: TaskKind, function: Callable[[Any], None], arguments: Sequence[Any], parameters: dict[str, Any]
    ) -> list[str]:
        """The ids of one job for each argument of the function."""
        executor = SlurmExecutor(self.folder, python=self.profile.cluster.python)
        executor.update_parameters(**parameters)
        try:
            # submitit also prints the error
            with redirect_stderr(StringIO()), _outside_of_job():
                return [job.job_id for job in executor.map_array(function, arguments)]
        except FailedJobError as error:
            raise InputError(self._sbatch_error(kind, " ".join(str(error).split()))) from error

    def _submitted(self, job: str, kind: TaskKind, folder: Path, pool: Path | None = None) -> SubmittedJob:
        name = self.profile.name
        return SubmittedJob(job=job, kind=kind, folder=folder, cluster=name, time=time.time(), pool=pool)

    def _shape(self, kind: TaskKind) -> CellShape:
        """What a cell of a packed job gets: its part of a node, or all of the nodes if it is the only one."""
        resources = self._resources(kind)
        cells, memory = resources.cells_per_job, resources.memory_gib
        return CellShape(
            cells=cells,
            processes=resources.processes,
            cores=resources.cpus_per_node * resources.nodes // (cells * resources.processes),
            gpus=resources.gpus // resources.nodes,
            nodes=resources.nodes,
            cells_per_gpu=resources.cells_per_gpu,
            memory_mib=int(memory * 1024 / cells) if memory else None,
            srun_options=tuple(self.profile.cluster.srun_options),
            cells_per_pass=resources.cells_per_pass,
        )

    def _packed_parameters(self, kind: TaskKind, dependency: str | None) -> dict[str, Any]:
        """Parameters of a packed job: one process starts the cells, beside the steps that it starts."""
        cores = self._resources(kind).cpus_per_node
        options = ["--overlap", "--nodes=1", "--ntasks=1", f"--cpus-per-task={cores}", "--mem=0"]
        return {
            **self._parameters(kind, dependency),
            "ntasks_per_node": 1,
            "cpus_per_task": cores,
            "srun_args": [*options, *self.profile.cluster.srun_options],
        }

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
