"""Count what a step executes: kernels, casts, bytes and FLOPs, in total and by line of code."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

import hpc_jepa

PACKAGE = str(Path(hpc_jepa.__file__).parent)
OWN_FILES = str(Path(__file__).parent)
WITHOUT_KERNEL = frozenset({
    "_unsafe_view", "alias", "detach", "device", "empty", "empty_like", "empty_strided", "is_pinned", "lift_fresh",
    "new_empty", "new_empty_strided", "_local_scalar_dense",
})  # fmt: skip
"""Operators that launch nothing although they are no views."""


@dataclass
class Count:
    """Kernels, the casts among them, bytes that elementwise kernels and the casts among them read and write, FLOPs.

    Elementwise are all kernels but matrix products and attention, so reductions, norms and gathers too. Each tensor
    counts once per kernel, with the elements it has in memory, or in a gather with those that are selected.
    """

    kernels: int = 0
    casts: int = 0
    elementwise_bytes: int = 0
    cast_bytes: int = 0
    flops: int = 0

    def add(self, other: "Count") -> None:
        """Add the counts of another."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that PyTorch executes inside it.

    by_place: counts by ``file:line`` of this package, or the autograd function in a backward pass.
    by_operator: counts by operator, or by name of a Triton kernel.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = Count()
        self.by_place: dict[str, Count] = defaultdict(Count)
        self.by_operator: dict[str, Count] = defaultdict(Count)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if launches_kernel(func):
            count = count_operation(func, args, kwargs, result)
            for counted in (self.total, self.by_place[_place()], self.by_operator[_name(func, args, kwargs)]):
                counted.add(count)
        return result


def launches_kernel(func: Any) -> bool:
    """Whether an operator does work on the device: it is no view and no mere allocation."""
    if func.namespace == "hpc_jepa":
        return True
    return not (func.namespace == "prim" or func.is_view or func.overloadpacket.__name__ in WITHOUT_KERNEL)


def count_operation(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> Count:
    """The counts of one kernel."""
    packet = func.overloadpacket
    if packet in flop_registry:
        return Count(kernels=1, flops=flop_registry[packet](*args, **kwargs, out_val=result))
    moved = _moved_bytes([x for x in tree_iter((args, kwargs, result)) if isinstance(x, Tensor)])
    if not _is_cast(packet.__name__, args, result):
        return Count(kernels=1, elementwise_bytes=moved)
    return Count(kernels=1, casts=1, elementwise_bytes=moved, cast_bytes=moved)


def _is_cast(name: str, args: tuple[Any, ...], result: object) -> bool:
    """Whether a copy changes the type."""
    if name == "_to_copy" and isinstance(result, Tensor):
        return bool(args[0].dtype != result.dtype)
    if name == "_foreach_copy_":  # many tensors in one kernel
        return any(x.dtype != y.dtype for x, y in zip(args[0], args[1], strict=True))
    return bool(name == "copy_" and args[1].dtype != args[0].dtype)


def _moved_bytes(tensors: list[Tensor]) -> int:
    """Bytes that one kernel reads and writes: with an index among its tensors, not more than its second largest."""
    distinct = list({id(x): x for x in tensors}.values())
    elements = [_elements_in_memory(x) for x in distinct]
    if any(x.dtype == torch.int64 and x.ndim for x in distinct) and len(distinct) > 1:
        most = sorted(elements)[-2]
        elements = [min(count, most) for count in elements]
    return sum(count * x.element_size() for count, x in zip(elements, distinct, strict=True))


def _elements_in_memory(tensor: Tensor) -> int:
    """Number of elements, without those that an expanded axis repeats."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements


def _name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if func.namespace != "hpc_jepa":
        return str(func.overloadpacket)
    names = [x for x in (*args, *kwargs.values()) if isinstance(x, str)]
    return f"triton.{names[0]}" if names else str(func.overloadpacket)


def _place() -> str:
    """``file:line`` of the innermost frame in this package, or the autograd function that runs.

    PyTorch has no public function for the latter.
    """
    if (node := torch._C._current_autograd_node()) is not None:
        return str(node.name())
    for frame in _frames():
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.startswith(OWN_FILES):
            return f"{Path(name).relative_to(PACKAGE)}:{frame.f_lineno}"
    return "elsewhere"


def _frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def largest(counts: dict[str, Count], key: Callable[[Count], int], number: int) -> list[tuple[str, Count]]:
    """The entries with the largest ``key``, in descending order, without zeros."""
    ranked = sorted(counts.items(), key=lambda item: -key(item[1]))
    return [(name, count) for name, count in ranked[:number] if key(count)]
