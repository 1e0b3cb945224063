"""The device of a process and of its threads: from the configuration, the launcher's variables and the visible GPUs."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import torch

from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
"""An entry of CUDA_VISIBLE_DEVICES that names a GPU: an index, or the UUID of a GPU or of a MIG instance."""
NO_GPU = re.compile(r"|-\d+|NoDevFiles|none|void", re.IGNORECASE)
"""First entries of CUDA_VISIBLE_DEVICES that hide all GPUs on purpose."""
TASKS_PER_NODE = re.compile(r"(\d+)(?:\(x(\d+)\))?")
"""A part of SLURM_STEP_TASKS_PER_NODE: ``4(x2)`` is two nodes of four tasks."""
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpus:
    """GPUs that this process may use, according to torch and the operating system.

    count: CUDA devices that torch can use. files: NVIDIA device files that can be opened. driver: version of the loaded
    driver. build, cuda: version of torch, and of the CUDA that it was built for.
    """

    count: int
    files: tuple[str, ...] = ()
    driver: str | None = None
    build: str = str(torch.__version__)
    cuda: str | None = torch.version.cuda

    @classmethod
    def find(cls) -> "Gpus":
        """The GPUs of this process. No CUDA context is created."""
        if torch.cuda.is_available():  # device_count alone also counts GPUs whose driver is too old
            return cls(torch.cuda.device_count())
        version = re.search(r"\d+(?:\.\d+)+", _read(DRIVER_VERSION))
        files = sorted(path for path in Path("/dev").glob("nvidia[0-9]*") if _can_open(path))
        return cls(0, tuple(map(str, files)), version[0] if version else None)


def select_device(setting: DeviceSetting = "auto") -> torch.device:
    """The device of this process by :func:`choose_device`, made the current device of the calling thread."""
    device = choose_device(setting, os.environ, Gpus.find())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def hide_gpus() -> None:
    """Hide all GPUs from this process and its children: torch, DeepSpeed and DALI then use the CPU.

    Call it before CUDA is initialised.
    """
    os.environ[VISIBLE] = ""


def choose_device(setting: DeviceSetting, environment: Mapping[str, str], gpus: Gpus) -> torch.device:
    """The device of one process.

    Raises InputError if this host has fewer GPUs than processes, and if no GPU is visible although ``setting`` is
    "cuda" or the job was given one: training on the CPU would appear to work.
    """
    if setting == "cpu":
        return torch.device("cpu")
    if gpus.count:
        return torch.device("cuda", _device_index(environment, gpus.count))
    evidence = "engine.device=cuda" if setting == "cuda" else gpu_evidence(environment, gpus.files)
    if evidence is None:
        return torch.device("cpu")
    raise InputError(
        f"torch sees no GPU, but {evidence}: {_diagnosis(gpus)}; to use the CPU on purpose, set engine.device=cpu "
        "(hpc-jepa evaluate: --device cpu)"
    )


def gpu_evidence(environment: Mapping[str, str], files: tuple[str, ...]) -> str | None:
    """Evidence that this process was given GPUs: a variable and its value, or a device file; None without it.

    An empty CUDA_VISIBLE_DEVICES, -1, NoDevFiles, none and void hide GPUs on purpose; any other value is evidence,
    even one that is invalid for CUDA ("all" is for NVIDIA_VISIBLE_DEVICES). Without that variable, a step of a Slurm
    job has the GPUs in its own variables; those of its job may belong to other steps.
    """
    visible = environment.get(VISIBLE)
    if visible is not None:
        first = visible.split(",")[0].strip()
        return None if NO_GPU.fullmatch(first) else f"{VISIBLE}={visible}"
    listed = "SLURM_STEP_GPUS" if "SLURM_STEP_ID" in environment else "SLURM_JOB_GPUS"
    if environment.get(listed):
        return f"{listed}={environment[listed]}"
    if _number(environment, "SLURM_GPUS_ON_NODE"):
        return f"SLURM_GPUS_ON_NODE={environment['SLURM_GPUS_ON_NODE']}"
    return f"{files[0]} exists" if files else None


def visible_names(value: str) -> list[str]:
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names. CUDA ignores the first invalid entry and all after it."""
    return list(takewhile(GPU_NAME.fullmatch, (name.strip() for name in value.split(","))))


def gpu_names(environment: Mapping[str, str], count: int) -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES, each for a child process with one GPU; ``count``: devices that torch can use.

    A process sees at most one MIG instance, so all that are named count.
    """
    if VISIBLE not in environment:
        return [str(number) for number in range(count)]
    names = visible_names(environment[VISIBLE])
    if count and any(name.startswith("MIG-") for name in names):
        return names
    return names[:count]


def thread_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads use the CUDA device of the caller.

    A thread starts on device 0, and its first CUDA call would create a context there: half a GiB of GPU 0 per process.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ThreadPoolExecutor(threads, thread_name_prefix=name)
    return ThreadPoolExecutor(
        threads,
        thread_name_prefix=name,
        initializer=torch.cuda.set_device,
        initargs=(torch.cuda.current_device(),),
    )


class _LocalProcesses(NamedTuple):
    """Rank of a process among those on its host, their number, and whether srun started them one by one."""

    rank: int
    total: int
    of_slurm: bool = False


def _device_index(environment: Mapping[str, str], count: int) -> int:
    """Index among the ``count`` visible GPUs.

    The processes of a host see the same GPUs, or srun bound each to its own (``--gpus-per-task``): the step then has
    enough GPUs on the node, and a process sees only a part of them.
    """
    local = _local_processes(environment)
    if local.total <= count:
        return local.rank
    named = len(visible_names(environment.get(VISIBLE, "")))  # more than count if several MIG instances are visible
    if local.of_slurm and _number(environment, "SLURM_GPUS_ON_NODE") >= local.total and named <= count:
        return local.rank % count
    visible = f"{count} GPU{'s' if count > 1 else ''}" + (f" ({VISIBLE}={environment[VISIBLE]})" if named else "")
    raise InputError(
        f"{local.total} processes on this host, but each sees {visible}: start one process per GPU; for several MIG "
        "instances use srun --gpus-per-task=1, since a process sees only the first"
    )


def _local_processes(environment: Mapping[str, str]) -> _LocalProcesses:
    """From the variables of torchrun, deepspeed or srun; the least possible number if none of them states it."""
    rank = _number(environment, "LOCAL_RANK" if "LOCAL_RANK" in environment else "SLURM_LOCALID")
    if "RANK" in environment:
        for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):  # of torchrun, of deepspeed
            if name in environment:
                return _LocalProcesses(rank, _number(environment, name))
    if _number(environment, "SLURM_STEP_NUM_TASKS") > 1:
        parts = TASKS_PER_NODE.findall(environment["SLURM_STEP_TASKS_PER_NODE"])
        tasks = [int(tasks) for tasks, nodes in parts for _ in range(int(nodes or 1))]
        return _LocalProcesses(rank, tasks[_number(environment, "SLURM_NODEID")], of_slurm=True)
    return _LocalProcesses(rank, rank + 1)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name) or "0"
    if not value.isdecimal():
        raise InputError(f"{name}={value}: not a number; start with torchrun or srun, or unset it")
    return int(value)


def _diagnosis(gpus: Gpus) -> str:
    """Why torch sees no GPU, and what to do."""
    if gpus.cuda is None:
        driver = f"the driver is {gpus.driver}" if gpus.driver else "no NVIDIA driver is loaded"
        return f"torch {gpus.build} was built without CUDA ({driver}); install a CUDA build of torch"
    if gpus.driver is None:
        return (
            f"no NVIDIA driver is loaded on this host (torch {gpus.build}, CUDA {gpus.cuda}); run nvidia-smi there; "
            "start a container with its GPU option (apptainer --nv)"
        )
    return (
        f"driver {gpus.driver} does not serve torch {gpus.build} (CUDA {gpus.cuda}), or the GPUs are not accessible; "
        "run nvidia-smi and hpc-jepa doctor there"
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _can_open(path: Path) -> bool:
    """Whether a device file can be opened: a job without GPUs may see the file, but its cgroup denies the device."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True
