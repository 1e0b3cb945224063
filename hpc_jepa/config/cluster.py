"""Resources and options of Slurm jobs: one profile of ``slurm/profiles/`` per site."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc_jepa.config.loading import did_you_mean, find_config, read_config
from hpc_jepa.config.strict import RootConfig, SettingError, Strict
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import list_resources

PROFILES = "slurm/profiles"
"""Folder of the profiles, in the working directory and in the package."""

RESERVED_OPTIONS = {
    "account", "array", "chdir", "constraint", "cpus-per-task", "dependency", "error", "gpus-per-node", "job-name",
    "mem", "nodes", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "reservation", "signal",
    "time",
}  # fmt: skip
"""Options of sbatch that have a key of their own or that the submission sets."""

COMMAND_NUMBER = "HPC_JEPA_COMMAND_NUMBER"
"""Environment variable: number of a command of a study task, which makes its rendezvous in a job step unique."""

RESERVED_SRUN_OPTIONS = {"cpus-per-task", "error", "output", "unbuffered", "wait"}
"""Options of srun that the submission sets."""

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d)(?::(?P<seconds>[0-5]?\d))?")


def _minutes(value: Any) -> Any:
    """Minutes from a number, or from Slurm's ``[DAYS-]HOURS:MINUTES[:SECONDS]``, rounded up."""
    if not isinstance(value, str):
        return value
    match = TIME.fullmatch(value.strip())
    if not match:
        raise ValueError(f"'{value}' is not a time; write minutes, or \"[days-]hours:minutes:seconds\" in quotes")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def _listed(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


Minutes = Annotated[int, BeforeValidator(_minutes), Field(gt=0)]
NameList = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class ResourcesConfig(Strict):
    """Resources of one job, which runs one cell of a study or, packed, several at a time on one node."""

    nodes: int = Field(1, gt=0)
    gpus_per_node: int = Field(0, ge=0)
    tasks_per_node: int | None = Field(None, gt=0, description="processes per node; null: one per GPU, or one")
    cpus_per_node: int = Field(gt=0, description="cores, shared by the processes of a node")
    memory_gib: float | None = Field(None, gt=0, description="main memory of a node; null: the default of the site")
    time: Minutes = Field(description='time limit: minutes, or "[days-]hours:minutes:seconds" in quotes')
    cells_per_job: int = Field(
        1, gt=0, description="cells that a job runs at the same time; more than 1: it takes the next one when one ends"
    )
    gpus_per_cell: int | None = Field(
        None, gt=0, description="GPUs of a packed cell; null: those of the job, divided among its cells"
    )
    cells_per_gpu: int = Field(1, gt=0, description="packed cells that share a GPU, through MPS where the node has it")
    cells_per_pass: int = Field(
        1, gt=0, description="of evaluate: cells in one place of a job whose encoders see each clip in one pass"
    )

    @model_validator(mode="after")
    def _enough_cores(self) -> "ResourcesConfig":
        if self.tasks > self.cpus_per_node:
            raise ValueError(f"cpus_per_node ({self.cpus_per_node}) is less than one per process ({self.tasks})")
        if self.tasks > self.gpus_per_node > 0:
            raise ValueError(
                f"tasks_per_node ({self.tasks}) is more than gpus_per_node ({self.gpus_per_node}); use one per GPU"
            )
        return self

    @model_validator(mode="after")
    def _cells_fit(self) -> "ResourcesConfig":
        """Refuse cells that the node has no room for, and keys that would have no effect."""
        if self.cells_per_job == 1:
            self._refuse_idle_gpus()
            return self
        self._refuse_shared_jobs()
        room = self.gpus_per_node * self.cells_per_gpu
        most = room // (self.gpus_per_cell or 1)
        if self.gpus_per_node and self.cells_per_job > most:
            each = "1 GPU" if (self.gpus_per_cell or 1) == 1 else f"{self.gpus_per_cell} GPUs"
            more = f" shared by {self.cells_per_gpu}" if self.cells_per_gpu > 1 else ""
            remedy = f"use at most {most}" + (", or cells_per_gpu: 2" if self.cells_per_gpu == 1 else "")
            raise SettingError(
                ("cells_per_job",),
                f"{self.cells_per_job} cells of {each}, but the node has {self.gpus_per_node} (gpus_per_node){more}; "
                f"{remedy if most else 'set fewer gpus_per_cell'}",
            )
        needed = self.cells_per_job * self.processes
        if needed > self.cpus_per_node:
            raise SettingError(
                ("cells_per_job",),
                f"{self.cells_per_job} cells need at least {needed} cores, one per process, but the node has "
                f"{self.cpus_per_node} (cpus_per_node); use at most {self.cpus_per_node // self.processes}",
            )
        return self

    def _refuse_idle_gpus(self) -> None:
        if self.gpus_per_cell is not None and (self.nodes, self.gpus_per_cell) != (1, self.gpus_per_node):
            raise SettingError(
                ("gpus_per_cell",),
                f"a job of one cell uses all its GPUs, here {self.nodes * self.gpus_per_node}; set cells_per_job to "
                "pack several, or gpus_per_node alone",
            )
        if self.cells_per_gpu > 1:
            raise SettingError(("cells_per_gpu",), "a job of one cell shares no GPU; set cells_per_job")

    def _refuse_shared_jobs(self) -> None:
        if self.nodes > 1:
            raise SettingError(
                ("nodes",), "a packed job has one node, which its cells share; use nodes: 1 or cells_per_job: 1"
            )
        if self.tasks_per_node is not None:
            raise SettingError(
                ("tasks_per_node",), "a packed cell has one process per GPU, or one; remove it, or set cells_per_job: 1"
            )
        if self.gpus_per_cell is not None and not self.gpus_per_node:
            raise SettingError(("gpus_per_cell",), "the job has no GPUs; set gpus_per_node, or remove it")
        if self.cells_per_gpu > 1 and (self.gpus_per_cell or 1) > 1:
            raise SettingError(("cells_per_gpu",), "only cells of one GPU can share it; set gpus_per_cell: 1")
        if self.cells_per_gpu > 1 and not self.gpus_per_node:
            raise SettingError(("cells_per_gpu",), "the job has no GPUs; set gpus_per_node, or remove it")

    @property
    def cells_of_job(self) -> int:
        """Cells that a job starts with: those at the same time, and those in one pass with each of them."""
        return self.cells_per_job * self.cells_per_pass

    @property
    def tasks(self) -> int:
        """Processes per node of a job of one cell."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def processes(self) -> int:
        """Processes of one cell."""
        return self.nodes * self.tasks if self.cells_per_job == 1 else max(self.gpus, 1)

    @property
    def gpus(self) -> int:
        """GPUs of one cell."""
        if self.cells_per_job == 1:
            return self.nodes * self.gpus_per_node
        shared = self.gpus_per_node * self.cells_per_gpu // self.cells_per_job
        return self.gpus_per_cell or (1 if self.cells_per_gpu > 1 else shared)


class NcclConfig(Strict):
    """Communication between processes, as environment variables of NCCL and gloo."""

    interface: str | None = Field(None, description="network interface, for example ib0; null: automatic")
    infiniband: bool = True
    shared_memory: bool = Field(True, description="false where /dev/shm is too small for the processes of a node")
    debug: Literal["WARN", "INFO"] = "WARN"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of these settings."""
        variables: dict[str, str] = {"NCCL_DEBUG": self.debug}
        if self.interface:
            variables |= {"NCCL_SOCKET_IFNAME": self.interface, "GLOO_SOCKET_IFNAME": self.interface}
        if not self.infiniband:
            variables["NCCL_IB_DISABLE"] = "1"
        if not self.shared_memory:
            variables["NCCL_SHM_DISABLE"] = "1"
        return variables


class ClusterConfig(RootConfig):
    """A site: where jobs run, their resources, and the setup before they start."""

    about: str = ""
    partition: NameList = Field((), description="one or several; Slurm uses the one that can start first")
    account: str | None = None
    qos: str | None = None
    constraint: str | None = Field(None, description="features of nodes, for example 'a100&nvlink'")
    reservation: str | None = None
    exclude: NameList = Field((), description="nodes to avoid")
    sbatch: dict[str, str | int | bool] = Field({}, description="further options of sbatch, without the leading --")
    srun: dict[str, str | int | bool] = Field(
        {}, description="further options of srun, which starts the processes, for example container-image of Pyxis"
    )
    train: ResourcesConfig
    evaluate: ResourcesConfig
    report: ResourcesConfig = ResourcesConfig(cpus_per_node=1, memory_gib=4, time=30)
    max_concurrent_jobs: int = Field(16, gt=0, description="jobs of one array that run at the same time")
    array_limit: int = Field(1000, gt=0, description="jobs per array; at most the MaxArraySize of the site minus one")
    signal_seconds: int = Field(
        120, gt=0, description="Slurm sends the signal to save this many seconds before the time limit"
    )
    setup: tuple[str, ...] = Field((), description="shell lines that run before every job: modules, conda")
    python: str | None = Field(None, description="command that starts Python in a job, for example inside a container")
    environment: dict[str, str] = Field({}, description="environment variables of every job")
    nccl: NcclConfig = NcclConfig()
    shared_memory_gib: float = Field(
        0, ge=0, description="minimum free space in /dev/shm; a job fails at its start if there is less"
    )
    gpu_memory_gib: float | None = Field(None, gt=0, description="memory of one GPU, for the memory estimate")
    gpu_tflops: float | None = Field(
        None, gt=0, description="peak bf16 rate of one GPU, for estimates before a first run"
    )

    @model_validator(mode="after")
    def _no_option_twice(self) -> "ClusterConfig":
        reserved = {"sbatch": (self.sbatch, RESERVED_OPTIONS), "srun": (self.srun, RESERVED_SRUN_OPTIONS)}
        for command, (options, names) in reserved.items():
            taken = sorted(names & {name.replace("_", "-") for name in options})
            if taken:
                raise ValueError(f"{command}.{taken[0]}: the submission sets --{taken[0]} itself; remove it")
        if self.report.cells_per_job > 1:
            raise SettingError(("report", "cells_per_job"), "a report is one task; remove it")
        for section, resources in (("train", self.train), ("report", self.report)):
            if resources.cells_per_pass > 1:
                raise SettingError((section, "cells_per_pass"), "only evaluations share a pass; set it in evaluate")
        return self

    @property
    def packs(self) -> bool:
        """Whether a job runs several cells."""
        return self.train.cells_of_job > 1 or self.evaluate.cells_of_job > 1

    @property
    def srun_options(self) -> list[str]:
        """``srun`` as arguments; true is an option without a value, false omits it."""
        present = {name: value for name, value in self.srun.items() if value is not False}
        return [f"--{name}" if value is True else f"--{name}={value}" for name, value in present.items()]


def local_cluster(processes: int = 1) -> ClusterConfig:
    """This machine as a site, for the local executor: one job per core, or of several ``processes`` per as many."""
    cores = max(os.cpu_count() or 1, processes)
    tasks = None if processes == 1 else processes
    resources = ResourcesConfig(tasks_per_node=tasks, cpus_per_node=cores, time=365 * 24 * 60)
    return ClusterConfig(train=resources, evaluate=resources, max_concurrent_jobs=cores // processes)


class Profile:
    """A validated profile and its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cluster = read_config(ClusterConfig, [path])

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem

    def location(self, key: str) -> str:
        """``file:line: key`` of a dotted key, or of the nearest key above it that is set."""
        locations = self.cluster.locations
        place = locations.find(tuple(key.split(".")))
        return f"{place}: {key}" if place else f"{locations.files[-1]}: {key} (not set)"


def find_profile(name: str) -> Profile:
    """A profile by its name under ``slurm/profiles/``, or by the path of a YAML file.

    Raises InputError with the nearest known name, or with file, line and key of an error in the profile.
    """
    if name.endswith((".yaml", ".yml")):
        return Profile(find_config(name))
    profiles = list_resources(PROFILES)
    if name in profiles:
        return Profile(profiles[name])
    known = sorted(["local", *profiles])
    raise InputError(
        f"--cluster {name}: no such profile{did_you_mean(name, known)}; known: {', '.join(known)}; "
        "to write your own, see docs/cluster.md"
    )
