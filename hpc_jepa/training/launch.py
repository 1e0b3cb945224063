"""Join the process group that the launcher prepared: torchrun, deepspeed, srun, or no launcher at all."""

import atexit
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.devices import select_device
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.training.slurm_rendezvous import slurm_store

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MASTER_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
LAUNCHER_VARIABLES = (*RANK_VARIABLES, *MASTER_VARIABLES)
SLURM_RANK_VARIABLES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
"""Wait this long for all ranks at start-up: the nodes of a job start at different times."""
THREADS = Path("/proc/self/task")
EXIT_PATIENCE = 5.0
"""Wait this long, in seconds, for the threads of the process group when the process ends."""
COLLECTIVE_MARGIN = timedelta(minutes=5)
"""Collectives end this long after the stall watchdog. NCCL's default of ten minutes would end the process before the
watchdog prints its stacks: NCCL's own watchdog thread then exits the process (TORCH_NCCL_ASYNC_ERROR_HANDLING=3)."""


def join_process_group(
    setting: DeviceSetting = "auto", timeout: timedelta | None = None, folder: Path | None = None
) -> torch.device:
    """Initialise the process group once per process; returns the device of this rank.

    Without a launcher the world size is 1. The group lasts as long as the process, because DeepSpeed keeps references
    to it and cannot start on a second one. ``setting``: ``engine.device``. ``timeout``: of one collective; None:
    torch's default. ``folder``: where the tasks of a Slurm step meet; None: the working directory.
    Raises InputError if the launcher's variables are incomplete or invalid (N processes that train alone would appear
    to succeed), or like :func:`hpc_jepa.devices.choose_device`. Raises HpcJepaError if the rendezvous times out.
    """
    set_ranks_from_slurm()
    if not is_single_process():
        check_launcher_variables()
    device = select_device(setting)
    if not dist.is_initialized():
        if device.type == "cuda":
            os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed uses it as the index of its device
        _init_backend("nccl" if device.type == "cuda" else "gloo", timeout, folder or Path())
        atexit.register(_leave_process_group)
    return device


def _leave_process_group() -> None:
    """Destroy the process group, and wait until its threads are idle.

    A thread of gloo may still hold a tensor of the last collective. If it releases it after the interpreter has begun
    to end, it waits for the lock of an interpreter that is gone, and the process is aborted with exit status -6.
    """
    dist.destroy_process_group()
    deadline = time.monotonic() + EXIT_PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.01)  # releases the interpreter's lock
        if not any(_is_running(thread) for thread in THREADS.glob("*/stat")):
            return


def _is_running(thread: Path) -> bool:
    """Whether another thread of this process runs, or could: state R of proc(5)."""
    try:
        state = thread.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False  # it has ended
    return state == "R" and thread.parent.name != str(threading.get_native_id())


def collective_timeout(stall_seconds: float) -> timedelta | None:
    """Timeout of collectives for a run with the watchdog limit ``guard.stall_seconds``; None: torch's default."""
    return timedelta(seconds=stall_seconds) + COLLECTIVE_MARGIN if stall_seconds else None


@contextmanager
def report_lost_peers() -> Iterator[None]:
    """Turn a failed collective into a one-line HpcJepaError: another rank has exited, and its log has the cause."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise HpcJepaError(
                f"rank {dist.get_rank()}: another rank of this run has exited; see the last line of its log, then "
                "repeat the command: training resumes from the latest checkpoint"
            ) from error
        raise


def _init_backend(backend: str, timeout: timedelta | None, folder: Path) -> None:
    import deepspeed  # takes seconds; evaluation imports this module without it

    # On a CPU, DeepSpeed would compile a shared-memory all-reduce at first start; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if is_single_process():
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads the local rank from the environment only
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        init_from_launcher(backend, timeout, folder)
    # DeepSpeed calls collectives by deprecated names; users cannot act on the warning.
    warnings.filterwarnings("ignore", message=".*deprecated.*", category=FutureWarning, module="torch.distributed")
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def init_from_launcher(backend: str, timeout: timedelta | None, folder: Path) -> None:
    """Initialise the process group of the launcher's ranks; the tasks of a Slurm step meet in ``folder``.

    Raises HpcJepaError after RENDEZVOUS_TIMEOUT.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        if _meets_in_slurm():
            place, store = str(folder), slurm_store(os.environ, folder, RENDEZVOUS_TIMEOUT)
        else:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            store, *_ = next(rendezvous("env://", rank, world_size, timeout=RENDEZVOUS_TIMEOUT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    except dist.DistError as error:
        reason = str(error).partition("\n")[0]
        raise HpcJepaError(
            f"rank {rank} of {world_size}: rendezvous at {place} timed out after {RENDEZVOUS_TIMEOUT.seconds} s "
            f"({reason}); check the logs of the other ranks, and the network between the nodes"
        ) from error


def is_single_process() -> bool:
    """Whether no launcher started this process. LOCAL_RANK=0 alone may be inherited from a single-process run."""
    return not {"RANK", "WORLD_SIZE"} & os.environ.keys() and os.environ.get("LOCAL_RANK", "0") == "0"


def check_launcher_variables() -> None:
    """Raise InputError unless the launcher's variables are complete and valid; torch would wait for missing ranks."""
    required = RANK_VARIABLES if _meets_in_slurm() else LAUNCHER_VARIABLES
    missing = [name for name in required if name not in os.environ]
    if missing:
        present = next(name for name in RANK_VARIABLES if name in os.environ)
        raise InputError(f"{present} is set but {', '.join(missing)} is not: start with torchrun, or unset {present}")
    invalid = [name for name in required if name != "MASTER_ADDR" and not os.environ[name].isdecimal()]
    if invalid:
        raise InputError(f"{invalid[0]}={os.environ[invalid[0]]}: not a number; start with torchrun, or unset it")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank >= world_size:
        raise InputError(f"RANK={rank}: must be less than WORLD_SIZE={world_size}; start with torchrun, or unset both")


def set_ranks_from_slurm() -> None:
    """Set torch's variables of ranks from Slurm's if srun started this process as one of several.

    Ranks of another launcher take precedence. Raises InputError in a multi-task job that was started without srun:
    it would train as one process and appear to succeed.
    """
    if os.environ.keys() & {"RANK", "WORLD_SIZE"}:
        return
    if "SLURM_STEP_ID" in os.environ:
        if int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
            os.environ |= {name: os.environ[SLURM_RANK_VARIABLES[name]] for name in RANK_VARIABLES}
            for name in MASTER_VARIABLES:  # a job script may set them for torchrun
                os.environ.pop(name, None)
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_JOB_ID" in os.environ:
        raise InputError(
            f"this Slurm job has {os.environ['SLURM_NTASKS']} tasks but was started as one process; "
            "start the command with srun, or request --ntasks=1"
        )


def _meets_in_slurm() -> bool:
    """Whether the ranks are the tasks of a Slurm step and no launcher has named an address.

    LOCAL_RANK proves nothing: it becomes the index of the device, 0 in every task of ``srun --gpus-per-task=1``.
    """
    if "SLURM_STEP_ID" not in os.environ or os.environ.keys() & set(MASTER_VARIABLES):
        return False
    return all(
        os.environ.get(name, "") == os.environ.get(SLURM_RANK_VARIABLES[name]) for name in ("RANK", "WORLD_SIZE")
    )
