"""DeepSpeed without torch.compile: importing it takes most of the time in which a process would start."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.runtime import compiler
from deepspeed.runtime.zero import partitioned_param_coordinator as coordinator

STAGE_3 = (
    coordinator.update_recompute_parameters,
    *vars(coordinator.PartitionedParameterCoordinator).values(),
)
"""Functions some of which import torch._dynamo to exempt themselves from compilation. Stage 3 is never compiled."""


def import_muon() -> None:
    """Import DeepSpeed's optimizer Muon, uncompiled. DeepSpeed imports it to compare classes; it is never used."""
    decorate = compiler.compile
    compiler.compile = lambda: _unchanged
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = decorate


@contextmanager
def uncompiled_stage_3() -> Iterator[None]:
    """While DeepSpeed builds an engine of stage 3, its hooks are not exempted from compilation."""
    for function in filter(inspect.isfunction, STAGE_3):
        while wrapped := getattr(function, "__wrapped__", None):
            setattr(wrapped, "__dynamo_disable", wrapped)  # where torch._disable_dynamo caches its result
            function = wrapped
    disable = torch.compiler.disable
    torch.compiler.disable = _unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
