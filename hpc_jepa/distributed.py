"""Rank helpers: who am I, and sums over all processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Rank of this process, 0 outside a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def set_ds_accelerator() -> None:
    """To be called before DeepSpeed is imported: where it is not told, it guesses, with a warning."""
    os.environ.setdefault("DS_ACCELERATOR", local_device().type)


def is_main() -> bool:
    """Whether this process writes the files that exist once per run."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def broadcast_int(number: int) -> int:
    """The number that rank 0 has, on all processes."""
    if world_size() == 1:
        return number
    sent = torch.tensor(number, device=local_device())
    dist.broadcast(sent, src=0)
    return int(sent)


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
    """Differentiable sum over all processes; the identity outside a process group."""
    if world_size() == 1:
        return x
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


class _GatherOverProcesses(torch.autograd.Function):
    """Rows of all processes; each gets back the gradients that all processes have for its rows."""

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
    """Differentiable: rows [B, ...] of all processes in rank order; all processes must hold equally many."""
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


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 runs the block before all others do."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


class GlooGroup:
    """A second process group on the CPU, for small exchanges beside the gradients (usable from another thread)."""

    def __init__(self, timeout: timedelta | None = None) -> None:
        """``patience``: how long an exchange waits for the slowest process; None: as long as torch does."""
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
        """Whatever every process has, in rank order; it travels as bytes through the host's memory."""
        if self._group is None:
            return [local]
        gathered: list[Any] = [None] * world_size()
        dist.all_gather_object(gathered, local, group=self._group)
        return gathered
