"""Hand the tasks of a study to Slurm, through submitit."""

import shlex
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
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
"""Keys of a profile, and words by which sbatch complains about what they hold."""


@dataclass(frozen=True)
class SlurmSubmitter:
    """Queues tasks with the settings of one profile; scripts, pickles and output of jobs go to ``folder``."""

    profile: Profile
    folder: Path
    study: str

    def array(self, tasks: Sequence[StudyTask], dependency: str | None = None) -> list[SubmittedJob]:
        """One array; a single task is a job by itself.

        Raises InputError with sbatch's own words and the key of the profile they are about.
        """
        executor = SlurmExecutor(self.folder, python=self.profile.cluster.python)
        kind = tasks[0].kind
        executor.update_parameters(**self._parameters(kind, dependency))
        try:
            with redirect_stderr(StringIO()):  # submitit prints what it raises
                queued = executor.map_array(run_in_job, tasks)
        except FailedJobError as error:
            raise InputError(self._explained(kind, " ".join(str(error).split()))) from error
        now = time.time()
        return [
            SubmittedJob(job=job.job_id, kind=task.kind, folder=task.folder, cluster=self.profile.name, time=now)
            for job, task in zip(queued, tasks, strict=True)
        ]

    def _parameters(self, kind: TaskKind, dependency: str | None) -> dict[str, Any]:
        """What submitit writes into the batch script; None is left out."""
        cluster, needs = self.profile.cluster, self._needs(kind)
        cpus = needs.cpus_per_node // needs.tasks
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
            "time": needs.time,
            "nodes": needs.nodes,
            "ntasks_per_node": needs.tasks,
            "cpus_per_task": cpus,
            "gpus_per_node": needs.gpus_per_node or None,
            "mem": f"{round(needs.memory_gib * 1024)}M" if needs.memory_gib else None,
            "dependency": dependency,
            "array_parallelism": cluster.at_once,
            "signal_delay_s": cluster.warning,
            "wckey": None,
            "additional_parameters": options,
            "setup": self._before(needs),
            # srun forgets --cpus-per-task of sbatch; when one process has ended the others have a minute to follow.
            "srun_args": [f"--cpus-per-task={cpus}", "--wait=60"],
            "teardown": [f"bash {shlex.quote(str(AFTER_SRUN))} $?"],
        }

    def _before(self, needs: ResourcesConfig) -> list[str]:
        """Shell lines in front of the work."""
        cluster = self.profile.cluster
        variables = {**cluster.nccl.environment, **cluster.environment}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append(f"export HPC_JEPA_JOB_END_TIME=$(($(date +%s) + {60 * needs.time}))")
        if cluster.shared_memory_gib:
            least = round(cluster.shared_memory_gib * 2**20)
            refusal = f"error: less than {cluster.shared_memory_gib} GiB free in /dev/shm of $(hostname)"
            lines.append(
                f'[ "$(df --output=avail /dev/shm | tail -n 1)" -ge {least} ] || {{ echo "{refusal}" >&2; exit 1; }}'
            )
        return [*lines, *cluster.setup]

    def _needs(self, kind: TaskKind) -> ResourcesConfig:
        cluster = self.profile.cluster
        return {"train": cluster.train, "evaluate": cluster.evaluate, "report": cluster.report}[kind]

    def _explained(self, kind: TaskKind, words: str) -> str:
        """sbatch's words, and where in the profile the cause stands."""
        lowered = words.lower()
        for key, signs in SBATCH_ERROR_KEYS.items():
            if any(sign in lowered for sign in signs):
                needed = key in ResourcesConfig.model_fields
                return f"{self.profile.location(f'{kind}.{key}' if needed else key)}: {words}"
        return f"{self.profile.path}: {words}"
