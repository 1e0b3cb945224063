"""Weights cast to the precision of autocast, many in one operation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_jepa.kernels.dispatch import fused

Affine = tuple[Tensor, Tensor]
"""Weight and bias of a linear layer."""


def cast_layers(layers: Sequence[nn.Linear | nn.Conv3d], x: Tensor) -> list[Affine | None]:
    """Weight and bias of each layer in the dtype of autocast, for inputs on the device of ``x``.

    On a GPU all are cast in one kernel, instead of one each. None where autocast has to do it: on a CPU, where casts
    cost little, and under ZeRO 3, which gathers a weight only for the forward pass of its own layer.
    """
    if not fused(x) or not torch.is_autocast_enabled(x.device.type):
        return [None] * len(layers)
    parameters = [p for layer in layers for p in layer.parameters()]
    if any(is_sharded(p) for p in parameters):
        return [None] * len(layers)
    copies = CastTogether.apply(torch.get_autocast_dtype(x.device.type), *parameters)  # type: ignore[no-untyped-call]
    return list(zip(copies[::2], copies[1::2], strict=True))


def is_sharded(parameter: Tensor) -> bool:
    """Whether ZeRO 3 holds the parameter in shards; in full it exists only in the forward pass of its own module."""
    return hasattr(parameter, "ds_tensor")


class CastTogether(torch.autograd.Function):
    """Copies of tensors in another dtype; gradients are cast back together too."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Copies of ``tensors``."""
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return tuple(_copies(tensors, [dtype] * len(tensors)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the dtypes of the tensors."""
        return None, *_copies(gradients, ctx.dtypes)


def _copies(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
    torch._foreach_copy_(copies, list(tensors))
    return copies
