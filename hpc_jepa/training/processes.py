"""Join the process group that the launcher (torchrun, deepspeed, srun, or nobody) prepared."""

import atexit
import os
import warnings

import deepspeed
import torch
import torch.distributed as dist

from hpc_jepa.distributed import local_device
from hpc_jepa.errors import InputError

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def join_process_group() -> torch.device:
    """Start the process group of this process, once; the device of this process.

    Without a launcher the group has one member. With an incomplete one this is an error, never a silent group of one:
    N processes that each train alone into one folder would look like a success. The group lasts as long as the process:
    DeepSpeed keeps references to it and cannot start on a second one.
    Raises InputError when only some of the launcher's variables are set.
    """
    device = local_device()
    if not dist.is_initialized():
        _start("nccl" if device.type == "cuda" else "gloo", device)
        atexit.register(dist.destroy_process_group)
    return device


def _start(backend: str, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # DeepSpeed would compile a shared-memory reduction at its first start on a CPU; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it from here alone
        dist.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    elif missing:
        raise InputError(f"the launcher set RANK or WORLD_SIZE but not {', '.join(missing)}; use torchrun or srun")
    else:
        dist.init_process_group(backend)
    # DeepSpeed calls collectives by names that torch renames; nothing a user could do about it.
    warnings.filterwarnings("ignore", message=".*deprecated.*", category=FutureWarning, module="torch.distributed")
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
