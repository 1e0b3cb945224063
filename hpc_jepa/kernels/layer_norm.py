"""Layer norm with its residual addition, and of several levels side by side."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hpc_jepa.kernels.dispatch import fused


def add_layer_norm(x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + update`` and its layer norm over the last axis, for x and update [..., D]; without an update, of x.

    On a GPU one kernel reads and writes each tensor once, in the dtype of ``x``; statistics are float32. The plain form
    follows autocast, whose layer norm returns float32.
    """
    if fused(x):
        from hpc_jepa.kernels.triton.layer_norm import TritonAddLayerNorm, TritonLayerNorms  # Triton: CUDA builds only

        if update is None:
            normed = TritonLayerNorms.apply(eps, x.dtype, x, weight, bias)  # type: ignore[no-untyped-call]
            return x, normed
        return TritonAddLayerNorm.apply(x, update, weight, bias, eps)  # type: ignore[no-any-return, no-untyped-call]
    x = x if update is None else x + update
    return x, F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def level_norms(levels: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], eps: float) -> Tensor:
    """Layer norms of L tensors [B, N, D] side by side: [B, N, L * D] float32.

    On a GPU each norm writes its part of the result, without a copy.
    """
    if fused(levels[0]):
        from hpc_jepa.kernels.triton.layer_norm import TritonLayerNorms  # Triton comes with CUDA builds only

        return TritonLayerNorms.apply(eps, torch.float32, *levels, *weights, *biases)  # type: ignore[no-any-return, no-untyped-call]
    norms = zip(levels, weights, biases, strict=True)
    return torch.cat([F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps) for x, weight, bias in norms], dim=-1)
