"""Rotation of channel pairs, and of the queries and keys of an attention layer."""

import torch
from einops import rearrange
from torch import Tensor

from hpc_jepa.kernels.dispatch import fused


def rotated_qkv(qkv: Tensor, rotation: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value [B, heads, N, d] of projections [B, N, 3 * heads * d], queries and keys rotated.

    rotation: [B or 1, 1, N, d / 2, 2] or [B or 1, 1, N, d, 2], as in :func:`rotate`, float32 and without a gradient. On
    a GPU one kernel reads and writes queries and keys in their dtype and computes in float32; values are not copied.
    """
    if fused(qkv):
        from hpc_jepa.kernels.triton.rotary import TritonRotatedQKV  # Triton comes with CUDA builds only

        return TritonRotatedQKV.apply(qkv, rotation, heads)  # type: ignore[no-any-return, no-untyped-call]
    parts = rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=heads)
    query, key = rotate(parts[:2], rotation).to(qkv.dtype)
    return query, key, parts[2]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the channel pairs of ``x`` [..., N, head_width] by ``rotation`` [..., N, head_width / 2, 2]; returns fp32.

    The last axis of ``rotation`` is cosine and sine. With one rotation per channel [..., N, head_width, 2] (``vjepa2``)
    each channel is that component of its pair under its own rotation. torch.compile fuses real arithmetic into one pass
    but does not support complex numbers; without it a complex product is one pass.
    """
    pairs = rearrange(x.float(), "... (pair part) -> ... pair part", part=2)
    if rotation.shape[-2] == x.shape[-1]:
        even, odd = rearrange(rotation, "... (pair part) turn -> part ... pair turn", part=2)
        return torch.stack((_real(pairs, even), _imaginary(pairs, odd)), dim=-1).flatten(-2)
    if torch.compiler.is_compiling():
        return torch.stack((_real(pairs, rotation), _imaginary(pairs, rotation)), dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)).flatten(-2)


def _real(pairs: Tensor, rotation: Tensor) -> Tensor:
    return pairs[..., 0] * rotation[..., 0] - pairs[..., 1] * rotation[..., 1]


def _imaginary(pairs: Tensor, rotation: Tensor) -> Tensor:
    return pairs[..., 0] * rotation[..., 1] + pairs[..., 1] * rotation[..., 0]
