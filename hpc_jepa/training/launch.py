"""Join the process group that the launcher (torchrun, deepspeed, srun, or nobody) prepared."""

import atexit
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from hpc_jepa.distributed import local_device
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.training.slurm_step import set_ranks_from_slurm

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
"""How long processes wait for each other at the start: nodes of one job start at different moments."""
LAUNCHER_VARIABLES = (*RANK_VARIABLES, "MASTER_ADDR", "MASTER_PORT")


def join_process_group() -> torch.device:
    """Start the process group of this process, once; the device of this process.

    Without a launcher the group has one member. With an incomplete one this is an error, never a silent group of one:
    N processes that each train alone into one folder would look like a success. The group lasts as long as the process:
    DeepSpeed keeps references to it and cannot start on a second one.
    Raises InputError when only some of the launcher's variables are set, or to something that cannot be.
    """
    set_ranks_from_slurm()
    device = local_device()
    if not dist.is_initialized():
        _init_backend("nccl" if device.type == "cuda" else "gloo", device)
        atexit.register(dist.destroy_process_group)
    return device


@contextmanager
def report_lost_peers() -> Iterator[None]:
    """Say in one line that a collective failed because another process is gone: what ended that one is the cause."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise HpcJepaError(
                f"rank {dist.get_rank()}: another process of this run has ended; its own last line says why, "
                "the same command goes on from the newest checkpoint"
            ) from error
        raise


def _init_backend(backend: str, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # DeepSpeed would compile a shared-memory reduction at its first start on a CPU; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if is_single_process():
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it from here alone
        dist.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    else:
        check_launcher_variables()
        _rendezvous(backend)
    # DeepSpeed calls collectives by names that torch renames; nothing a user could do about it.
    warnings.filterwarnings("ignore", message=".*deprecated.*", category=FutureWarning, module="torch.distributed")
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def _rendezvous(backend: str) -> None:
    """Wait for all processes of the run. Raises HpcJepaError where some do not come."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store, *_ = next(rendezvous("env://", rank, world_size, timeout=RENDEZVOUS_TIMEOUT))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    except dist.DistError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).partition("\n")[0]
        raise HpcJepaError(
            f"rank {rank} of {world_size}: not all processes met at {place} "
            f"within {RENDEZVOUS_TIMEOUT.seconds} s ({reason}); "
            "the logs of the other ranks say why, or the network between the nodes is in the way"
        ) from error


def is_single_process() -> bool:
    """Whether no launcher started this process. LOCAL_RANK=0 alone may be inherited from one that trained alone."""
    return not {"RANK", "WORLD_SIZE"} & os.environ.keys() and os.environ.get("LOCAL_RANK", "0") == "0"


def check_launcher_variables() -> None:
    """Raise InputError unless what a launcher sets is there and fits: torch would wait for ranks that cannot come."""
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if missing:
        present = next(name for name in RANK_VARIABLES if name in os.environ)
        raise InputError(f"{present} is set but {', '.join(missing)} is not: start with torchrun, or unset {present}")
    wrong = [name for name in (*RANK_VARIABLES, "MASTER_PORT") if not os.environ[name].isdecimal()]
    if wrong:
        raise InputError(f"{wrong[0]}={os.environ[wrong[0]]}: not a number; start with torchrun, or unset it")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank >= world_size:
        raise InputError(f"RANK={rank}: ranks of WORLD_SIZE={world_size} processes end at {world_size - 1}")
