"""How jobs are asked for on a Slurm cluster: one profile of ``slurm/profiles/`` for each site."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc_jepa.config.loading import ConfigLayers, find_config, merge_files, nearest_name, validate_config
from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import list_resources

PROFILES = "slurm/profiles"
"""Folder of the profiles, in the working directory and in the package."""

RESERVED_OPTIONS = {
    "account", "array", "chdir", "constraint", "cpus-per-task", "dependency", "error", "gpus-per-node", "job-name",
    "mem", "nodes", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "reservation", "signal",
    "time",
}  # fmt: skip
"""Options of sbatch that are keys of their own, or that only the submission itself can set."""

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d)(?::(?P<seconds>[0-5]?\d))?")


def _minutes(value: Any) -> Any:
    """Minutes from a number of them, or from Slurm's ``[DAYS-]HOURS:MINUTES[:SECONDS]``, rounded up."""
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
    """What one job takes."""

    nodes: int = Field(1, gt=0)
    gpus_per_node: int = Field(0, ge=0)
    tasks_per_node: int | None = Field(None, gt=0, description="processes on a node; null: one for each GPU, or one")
    cpus_per_node: int = Field(gt=0, description="cores, shared by the processes of the node")
    memory_gib: float | None = Field(None, gt=0, description="main memory of a node; null: what the site gives")
    time: Minutes = Field(description='limit: minutes, or "[days-]hours:minutes:seconds" in quotes')

    @model_validator(mode="after")
    def _a_core_for_each_process(self) -> "ResourcesConfig":
        if self.tasks > self.cpus_per_node:
            raise ValueError(f"cpus_per_node ({self.cpus_per_node}): {self.tasks} processes need a core each")
        if self.tasks > self.gpus_per_node > 0:
            raise ValueError(
                f"tasks_per_node ({self.tasks}) is more than gpus_per_node ({self.gpus_per_node}); one for each GPU"
            )
        return self

    @property
    def tasks(self) -> int:
        """Processes on each node."""
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
    """How processes talk to each other; becomes environment variables of NCCL and gloo."""

    interface: str | None = Field(None, description="network interface, for example ib0; null: they choose")
    infiniband: bool = True
    shared_memory: bool = Field(True, description="false where /dev/shm is too small for the processes of a node")
    debug: Literal["WARN", "INFO"] = "WARN"

    @property
    def environment(self) -> dict[str, str]:
        """The variables."""
        variables: dict[str, str] = {"NCCL_DEBUG": self.debug}
        if self.interface:
            variables |= {"NCCL_SOCKET_IFNAME": self.interface, "GLOO_SOCKET_IFNAME": self.interface}
        if not self.infiniband:
            variables["NCCL_IB_DISABLE"] = "1"
        if not self.shared_memory:
            variables["NCCL_SHM_DISABLE"] = "1"
        return variables


class ClusterConfig(Strict):
    """A site: where jobs go, what they take, and what has to happen before they start."""

    about: str = ""
    partition: NameList = Field((), description="one or several; Slurm takes the one that starts first")
    account: str | None = None
    qos: str | None = None
    constraint: str | None = Field(None, description="features of nodes, for example 'a100&nvlink'")
    reservation: str | None = None
    exclude: NameList = Field((), description="nodes not to be used")
    sbatch: dict[str, str | int | bool] = Field({}, description="further options of sbatch, without the leading --")
    train: ResourcesConfig
    evaluate: ResourcesConfig
    report: ResourcesConfig = ResourcesConfig(cpus_per_node=1, memory_gib=4, time=30)
    at_once: int = Field(16, gt=0, description="jobs of one array that run at a time")
    array_limit: int = Field(1000, gt=0, description="jobs of one array; the site's MaxArraySize less one, or fewer")
    warning: int = Field(120, gt=0, description="seconds before the time limit at which Slurm asks jobs to save")
    setup: tuple[str, ...] = Field((), description="shell lines before every job: modules, conda")
    python: str | None = Field(None, description="how Python starts in a job, for example inside a container")
    environment: dict[str, str] = Field({}, description="environment variables of every job")
    nccl: NcclConfig = NcclConfig()
    shared_memory_gib: float = Field(
        0, ge=0, description="least free space in /dev/shm; a job with less does not start"
    )
    gpu_memory_gib: float | None = Field(None, gt=0, description="memory of one GPU, for the memory plan")
    gpu_tflops: float | None = Field(
        None, gt=0, description="peak bf16 rate of one GPU, for estimates before a first run"
    )

    @model_validator(mode="after")
    def _no_option_twice(self) -> "ClusterConfig":
        taken = sorted(RESERVED_OPTIONS & {name.replace("_", "-") for name in self.sbatch})
        if taken:
            raise ValueError(f"sbatch.{taken[0]}: the submission sets --{taken[0]} itself; use the keys of the profile")
        return self


def local_cluster() -> ClusterConfig:
    """The local executor as a site: one process at a time for each core."""
    cores = os.cpu_count() or 1
    needs = ResourcesConfig(cpus_per_node=cores, time=365 * 24 * 60)
    return ClusterConfig(train=needs, evaluate=needs, at_once=cores)


class Profile:
    """A validated profile that knows where each of its keys is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layered: ConfigLayers = merge_files([path])
        self.cluster = validate_config(ClusterConfig, self._layered)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.stem

    def location(self, key: str) -> str:
        """``file:line: key`` of a dotted key, or of the nearest one above it that is set."""
        parts = tuple(key.split("."))
        for length in range(len(parts), 0, -1):
            if parts[:length] in self._layered.locations:
                return f"{self._layered.locations[parts[:length]]}: {key}"
        return f"{self._layered.files[-1]}: {key} (not set)"


def find_profile(name: str) -> Profile:
    """A profile by the name it has under ``slurm/profiles/``, or a YAML file.

    Raises InputError naming the nearest known one, or file, line and key of what is wrong in it.
    """
    if name.endswith((".yaml", ".yml")):
        return Profile(find_config(name))
    profiles = list_resources(PROFILES)
    if name in profiles:
        return Profile(profiles[name])
    known = sorted(["local", *profiles])
    match = nearest_name(name, known)
    raise InputError(
        f"--cluster {name}: no such profile"
        + (f" (did you mean '{match}'?)" if match else "")
        + f"; known: {', '.join(known)}, or write your own (docs/cluster.md)"
    )
