"""Optimizers that do not import torch.compile: thousands of files and a second of each process's start."""

import inspect
from types import MethodType
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)

UNCOMPILED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods that import torch._dynamo to exempt themselves from compilation."""


def eager_optimizer(kind: type[AnyOptimizer], parameters: Any, **settings: Any) -> AnyOptimizer:
    """An optimizer of a class of ``torch.optim`` that is never used inside a compiled function; the same updates."""
    for name in UNCOMPILED:
        method = inspect.unwrap(getattr(Optimizer, name))
        setattr(method, "__dynamo_disable", method)  # where torch._disable_dynamo caches its result
    optimizer = kind(parameters, **settings)
    # Without the graph breaks around the original, for which torch imports torch._dynamo.
    step = torch.no_grad()(inspect.unwrap(kind.step))
    optimizer.step = MethodType(Optimizer.profile_hook_step(step), optimizer)  # type: ignore[method-assign]
    return optimizer
