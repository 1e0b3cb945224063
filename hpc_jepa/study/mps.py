"""NVIDIA's Multi-Process Service, through which processes run on one GPU at the same time instead of taking turns."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hpc_jepa.devices import VISIBLE

CONTROL = "nvidia-cuda-mps-control"
TIMEOUT = 30  # seconds for a command of the driver


@contextmanager
def shared_gpus(cells_per_gpu: int, gpus: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, str], str]]:
    """Names of the GPUs for CUDA_VISIBLE_DEVICES, other variables of the processes, and a note about sharing.

    Starts a service for these GPUs if several cells share one, and ends it; without the service they take turns.
    """
    if cells_per_gpu == 1 or not gpus:
        yield gpus, {}, ""
        return
    several = f"; {cells_per_gpu} share a GPU"
    if shutil.which(CONTROL) is None:
        yield gpus, {}, f"{several} and take turns: {CONTROL} is not on the PATH of this node"
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        try:
            names = _uuids(gpus)
            _control({**variables, VISIBLE: ",".join(names)}, "-d")
        except (OSError, subprocess.SubprocessError, KeyError) as error:
            yield gpus, {}, f"{several} and take turns: MPS did not start ({_reason(error)})"
            return
        try:
            yield names, variables, f"{several} through MPS"
        finally:
            _control(variables, commands="quit\n")


def _uuids(gpus: tuple[str, ...]) -> tuple[str, ...]:
    """Names of GPUs that mean the same to the service and to its clients, which count from 0 among those it has.

    Raises KeyError if nvidia-smi does not list one of them.
    """
    if all(not name.isdecimal() for name in gpus):
        return gpus
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    listing = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    rows = (line.split(", ") for line in listing.splitlines() if ", " in line)
    known = {index: uuid.strip() for index, uuid in rows}
    return tuple(known[name] if name.isdecimal() else name for name in gpus)


def _control(variables: Mapping[str, str], *arguments: str, commands: str | None = None) -> None:
    with tempfile.TemporaryFile() as output:  # the service keeps its output open, so a pipe would never end
        subprocess.run(
            [CONTROL, *arguments],
            env={**os.environ, **variables},
            input=None if commands is None else commands.encode(),
            stdin=subprocess.DEVNULL if commands is None else None,
            stdout=output,
            stderr=output,
            timeout=TIMEOUT,
            check=commands is None,
        )


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"nvidia-smi does not list GPU {error.args[0]}"
    return str(error)
