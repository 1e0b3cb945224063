"""Distributed helpers: rank, world size, and collective operations with the right gradients."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.devices import Gpus, choose_device, hide_gpus
from hpc_jepa.errors import HpcJepaError, InputError


def rank() -> int:
    """Rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def collective_device() -> torch.device:
    """The device of tensors that the process group exchanges: the GPU for NCCL, the CPU for gloo."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def set_ds_accelerator(setting: DeviceSetting = "auto") -> None:
    """Set DS_ACCELERATOR. Call before DeepSpeed is imported; it guesses, with a warning, if the variable is not set.

    Hides GPUs that are not to be used. Raises InputError like :func:`hpc_jepa.devices.choose_device`.
    """
    device = choose_device(setting, os.environ, Gpus.find())
    if setting == "cpu":
        hide_gpus()
    os.environ.setdefault("DS_ACCELERATOR", device.type)


def is_main() -> bool:
    """Whether this is rank 0, which writes the files that exist once per run."""
    return rank() == 0


def local_rows(batch_size: int, rank: int, world_size: int, accumulation: int = 1) -> slice:
    """The rows of the global batch that belong to a rank.

    Raises InputError if the batch cannot be divided equally among the micro-batches of all ranks.
    """
    if batch_size % (world_size * accumulation):
        split, remedy = f"{world_size} processes", "change the batch size or the number of processes"
        if accumulation > 1:
            split += f" x {accumulation} micro-batches (engine.accumulation)"
            remedy = f"take a multiple of {world_size * accumulation}, or change engine.accumulation"
        raise InputError(f"engine.batch_size: {batch_size} clips cannot be divided equally among {split}; {remedy}")
    rows = batch_size // world_size
    return slice(rank * rows, (rank + 1) * rows)


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def broadcast_int(number: int) -> int:
    """The number that rank 0 passed, on all processes."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, device=collective_device())
    dist.broadcast(tensor, src=0)
    return int(tensor)


class _SumOverProcesses(torch.autograd.Function):
    """y = sum of x over processes; every process receives the gradient of the sum of all losses."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


def sum_over_processes(x: Tensor) -> Tensor:
    """Differentiable sum over all processes; the identity without a process group."""
    if world_size() == 1:
        return x
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


class _GatherOverProcesses(torch.autograd.Function):
    """Rows of all processes; the gradient of a process's rows is the sum of the gradients from all processes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        rows = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def gather_over_processes(x: Tensor) -> Tensor:
    """Differentiable all-gather of rows [B, ...] in rank order; B must be equal on all processes."""
    if world_size() == 1:
        return x
    gathered: Tensor = _GatherOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def max_over_processes(x: Tensor) -> Tensor:
    """Element-wise maximum over all processes, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def portable_error(error: Exception) -> Exception:
    """The error, or with several processes, which exchange it, its type and message: others may not be picklable."""
    if world_size() == 1 or isinstance(error, HpcJepaError):
        return error
    return HpcJepaError(f"{type(error).__name__}: {error}")


class GlooGroup:
    """A second process group, on the CPU: for small exchanges outside the gradients, usable from another thread."""

    def __init__(self, timeout: timedelta | None = None) -> None:
        """Collective: all processes must create the group. timeout: limit of one exchange; None: torch's default."""
        self._group = dist.new_group(backend="gloo", timeout=timeout) if world_size() > 1 else None

    def gather(self, x: Tensor) -> Tensor:
        """Rows [B, ...] of all processes in rank order -> [world * B, ...], on the device of ``x``."""
        if self._group is None:
            return x
        local = x.cpu().contiguous()
        rows = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(rows, local, group=self._group)
        return torch.cat(rows).to(x.device)

    def gather_objects(self, local: Any) -> list[Any]:
        """The picklable object of every process, in rank order."""
        if self._group is None:
            return [local]
        gathered: list[Any] = [None] * world_size()
        dist.all_gather_object(gathered, local, group=self._group)
        return gathered
