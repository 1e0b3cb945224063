"""Queries and keys rotated in one pass over memory: one program per token."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 512
"""Channel pairs of queries and keys that a program processes at a time."""


class TritonRotatedQKV(torch.autograd.Function):
    """``rotated_qkv`` on a GPU. The backward pass turns back and joins the three gradients in one pass."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rotation: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        qkv = qkv.contiguous()
        query, key = rotate_qk(qkv[..., : qkv.shape[2] // 3 * 2], rotation, heads).unbind(0)
        ctx.save_for_backward(rotation)
        value = qkv.view(*qkv.shape[:2], 3, heads, qkv.shape[2] // 3 // heads)[:, :, 2]
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return rotate_back(*gradients, *ctx.saved_tensors), None, None


@torch.library.custom_op("hpc_jepa::rotate_qk", mutates_args=())
def rotate_qk(projections: Tensor, rotation: Tensor, heads: int) -> Tensor:
    """Rotated queries and keys [2, B, N, heads, d] of their part [B, N, 2 * heads * d] of contiguous projections."""
    clips, tokens, channels = projections.shape
    turned = projections.new_empty(2, clips, tokens, heads, channels // 2 // heads)
    constants = _constants(rotation, clips, channels // 2, heads)
    _rotate[(clips * tokens,)](projections, rotation.contiguous(), turned, tokens, projections.stride(1), **constants)
    return turned


@rotate_qk.register_fake
def _(projections: Tensor, rotation: Tensor, heads: int) -> Tensor:
    clips, tokens, channels = projections.shape
    return projections.new_empty(2, clips, tokens, heads, channels // 2 // heads)


@torch.library.custom_op("hpc_jepa::rotate_back", mutates_args=())
def rotate_back(query: Tensor, key: Tensor, value: Tensor, rotation: Tensor) -> Tensor:
    """Gradient of the projections [B, N, 3 * heads * d] from those of query, key and value [B, heads, N, d]."""
    clips, heads, tokens, width = value.shape
    joined = value.new_empty(clips, tokens, 3 * heads * width)
    parts = [part if part.stride(3) == 1 else part.contiguous() for part in (query, key, value)]
    strides = [part.stride(axis) for part in parts for axis in (0, 1, 2)]
    constants = _constants(rotation, clips, heads * width, heads)
    _rotate_back[(clips * tokens,)](*parts, rotation.contiguous(), joined, tokens, *strides, **constants)
    return joined


@rotate_back.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, rotation: Tensor) -> Tensor:
    clips, heads, tokens, width = value.shape
    return value.new_empty(clips, tokens, 3 * heads * width)


def _constants(rotation: Tensor, clips: int, width: int, heads: int) -> dict[str, int | bool]:
    """Constants the kernels are compiled for. Raises ValueError if the rotations do not fit."""
    head = width // heads
    if rotation.shape[-2] not in (head, head // 2) or len(rotation) not in (1, clips):
        raise ValueError(f"rotations {list(rotation.shape)} do not fit {clips} clips with heads of {head} channels")
    return {
        "ONE_TABLE": len(rotation) == 1,
        "PER_CHANNEL": rotation.shape[-2] == head,
        **rotary_sizes(width, heads),
    }


def rotary_sizes(width: int, heads: int) -> dict[str, int]:
    """Sizes of a network the kernels are compiled for."""
    return {"WIDTH": width, "HEAD": width // heads, "BLOCK": min(BLOCK, triton.next_power_of_2(width // 2))}


@triton.jit
def _cosine_and_sine(rotation, pair, inside, HEAD: tl.constexpr, PER_CHANNEL: tl.constexpr):
    """Cosine and sine of the even, then of the odd channel of each pair."""
    part = pair % (HEAD // 2)
    place = rotation + part * (4 if PER_CHANNEL else 2)
    even_cosine = tl.load(place, mask=inside, other=0.0)
    even_sine = tl.load(place + 1, mask=inside, other=0.0)
    if PER_CHANNEL:
        odd_cosine = tl.load(place + 2, mask=inside, other=0.0)
        odd_sine = tl.load(place + 3, mask=inside, other=0.0)
    else:
        odd_cosine, odd_sine = even_cosine, even_sine
    return even_cosine, even_sine, odd_cosine, odd_sine


@triton.jit
def _table(rotation, tokens, HEAD: tl.constexpr, ONE_TABLE: tl.constexpr, PER_CHANNEL: tl.constexpr):
    """Rotations of this program's token."""
    row = tl.program_id(0)
    if ONE_TABLE:
        row = row % tokens
    return rotation + row.to(tl.int64) * HEAD * (2 if PER_CHANNEL else 1)


@triton.jit(do_not_specialize=["tokens"])  # compiled once for all numbers of tokens
def _rotate(
    projections, rotation, turned, tokens, stride_of_token,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, ONE_TABLE: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    rotation = _table(rotation, tokens, HEAD, ONE_TABLE, PER_CHANNEL)
    keys = tl.num_programs(0).to(tl.int64) * WIDTH  # queries of all tokens come first
    part = tl.arange(0, 2)[None, :]
    for start in range(0, WIDTH, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        inside = pair < WIDTH  # as many pairs of queries and keys as channels of one of them
        channel = 2 * pair[:, None] + part
        even, odd = tl.split(
            tl.load(projections + row * stride_of_token + channel, mask=inside[:, None], other=0.0).to(tl.float32)
        )
        even_cosine, even_sine, odd_cosine, odd_sine = _cosine_and_sine(rotation, pair, inside, HEAD, PER_CHANNEL)
        result = tl.join(even * even_cosine - odd * even_sine, even * odd_sine + odd * odd_cosine)
        place = turned + row * WIDTH + channel + tl.where(channel < WIDTH, 0, keys - WIDTH)
        tl.store(place, result.to(turned.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=["tokens"])
def _rotate_back(
    query, key, value, rotation, joined, tokens,
    query_clip, query_head, query_token, key_clip, key_head, key_token, value_clip, value_head, value_token,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, ONE_TABLE: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    clip, token = row // tokens, row % tokens
    rotation = _table(rotation, tokens, HEAD, ONE_TABLE, PER_CHANNEL)
    query += clip * query_clip + token * query_token
    key += clip * key_clip + token * key_token
    value += clip * value_clip + token * value_token
    joined += row * 3 * WIDTH
    _turn_back(query, query_head, rotation, joined, WIDTH, HEAD, PER_CHANNEL, BLOCK)
    _turn_back(key, key_head, rotation, joined + WIDTH, WIDTH, HEAD, PER_CHANNEL, BLOCK)
    for start in range(0, WIDTH, 2 * BLOCK):
        channel = start + tl.arange(0, 2 * BLOCK)
        copied = tl.load(value + channel // HEAD * value_head + channel % HEAD, mask=channel < WIDTH)
        tl.store(joined + 2 * WIDTH + channel, copied, mask=channel < WIDTH)


@triton.jit
def _turn_back(
    gradient, stride_of_head, rotation, joined,
    WIDTH: tl.constexpr, HEAD: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient before the rotation of the queries or keys of one token: the transposed rotation."""
    part = tl.arange(0, 2)[None, :]
    for start in range(0, WIDTH // 2, BLOCK):
        pair = start + tl.arange(0, BLOCK)
        inside = pair < WIDTH // 2
        channel = 2 * pair[:, None] + part
        place = gradient + channel // HEAD * stride_of_head + channel % HEAD
        even, odd = tl.split(tl.load(place, mask=inside[:, None], other=0.0).to(tl.float32))
        even_cosine, even_sine, odd_cosine, odd_sine = _cosine_and_sine(rotation, pair, inside, HEAD, PER_CHANNEL)
        result = tl.join(even * even_cosine + odd * odd_sine, odd * odd_cosine - even * even_sine)
        tl.store(joined + channel, result.to(joined.dtype.element_ty), mask=inside[:, None])
