"""Resources and options of Slurm jobs: one profile of ``slurm/profiles/`` per site."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc_jepa.config.loading import did_you_mean, find_config, read_config
from hpc_jepa.config.strict import RootConfig, Strict
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
    """Resources of one job."""

    nodes: int = Field(1, gt=0)
    gpus_per_node: int = Field(0, ge=0)
    tasks_per_node: int | None = Field(None, gt=0, description="processes per node; null: one per GPU, or one")
    cpus_per_node: int = Field(gt=0, description="cores, shared by the processes of a node")
    memory_gib: float | None = Field(None, gt=0, description="main memory of a node; null: the default of the site")
    time: Minutes = Field(description='time limit: minutes, or "[days-]hours:minutes:seconds" in quotes')

    @model_validator(mode="after")
    def _enough_cores(self) -> "ResourcesConfig":
        if self.tasks > self.cpus_per_node:
            raise ValueError(f"cpus_per_node ({self.cpus_per_node}) is less than one per process ({self.tasks})")
        if self.tasks > self.gpus_per_node > 0:
            raise ValueError(
                f"tasks_per_node ({self.tasks}) is more than gpus_per_node ({self.gpus_per_node}); use one per GPU"
            )
        return self

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(self.gpus_per_node, 1)

    @property
    def processes(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks

    @property
    def gpus(self) -> int:
        """GPUs of the job."""
        return self.nodes * self.gpus_per_node


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
        return self

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
