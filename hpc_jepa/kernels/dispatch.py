"""Where the fused forms run."""

import torch
from torch import Tensor


def fused(x: Tensor) -> bool:
    """Whether operations on ``x`` use Triton: on CUDA. Under torch.compile the plain form runs and is fused by it."""
    return x.is_cuda and not torch.compiler.is_compiling()
