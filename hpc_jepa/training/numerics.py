"""Numerics that PyTorch keeps in global state: TF32 and deterministic algorithms."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from hpc_jepa.config.training import EngineConfig
from hpc_jepa.errors import InputError

WORKSPACE_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS guarantees equal bits on several streams; the first is the faster one."""


@contextmanager
def numerics(engine: EngineConfig) -> Iterator[None]:
    """Apply ``engine.tf32`` and ``engine.deterministic`` in this process until the context is left.

    Enter it before the first matrix product on a GPU: cuBLAS reads its workspace once. A setting that is off leaves
    PyTorch as it is. Raises InputError if the environment has a workspace without that guarantee.
    """
    with ExitStack() as stack:
        if engine.tf32:
            stack.enter_context(_tf32())
        if engine.deterministic:
            stack.enter_context(_deterministic())
        yield


@contextmanager
def _tf32() -> Iterator[None]:
    # torch.backends.cuda.matmul.fp32_precision = "tf32" alone leaves the older setting at "highest", and Inductor of
    # PyTorch 2.13 raises an exception when it finds the two different. This function sets both.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _deterministic() -> Iterator[None]:
    workspace = os.environ.setdefault(WORKSPACE_VARIABLE, DETERMINISTIC_WORKSPACES[0])
    if workspace not in DETERMINISTIC_WORKSPACES:
        raise InputError(
            f"engine.deterministic: {WORKSPACE_VARIABLE}={workspace} in the environment; unset it, or set it to "
            f"{' or '.join(DETERMINISTIC_WORKSPACES)}"
        )
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    memory: Any = torch.utils.deterministic  # a module with a property, which its type does not have
    fill = memory.fill_uninitialized_memory
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # no kernel reads memory that was not written
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
