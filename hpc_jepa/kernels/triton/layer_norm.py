"""Layer norm in one pass over memory: one program per row; the backward pass computes the statistics again."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

PARTIAL_SUMS = 512
"""Programs of the backward pass. Each sums the gradients of gain and bias over its rows, on any GPU in one order."""


class TritonAddLayerNorm(torch.autograd.Function):
    """``add_layer_norm`` with an update."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total, normed = add_norm(x, update, weight, bias, eps)
        ctx.save_for_backward(total, weight)
        ctx.eps = eps
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_total, of_normed = gradients
        total, weight = ctx.saved_tensors
        of_input, of_affine = norm_backward(total, weight, of_normed, 0, of_total, ctx.eps)
        return of_input, of_input, of_affine[0], of_affine[1], None


class TritonLayerNorms(torch.autograd.Function):
    """``level_norms``; takes all levels, then their weights, then their biases."""

    @staticmethod
    def forward(ctx: Any, eps: float, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
        count = len(tensors) // 3
        levels, weights, biases = (list(tensors[start : start + count]) for start in (0, count, 2 * count))
        ctx.save_for_backward(*levels, *weights)
        ctx.eps = eps
        normed: Tensor = norms(levels, weights, biases, eps, dtype)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        levels, weights = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        parts = [
            norm_backward(level, weight, gradients[0], index, None, ctx.eps)
            for index, (level, weight) in enumerate(zip(levels, weights, strict=True))
        ]
        of_weights, of_biases = ([of_affine[row] for _, of_affine in parts] for row in (0, 1))
        return None, None, *(of_input for of_input, _ in parts), *of_weights, *of_biases


@torch.library.custom_op("hpc_jepa::add_norm", mutates_args=())
def add_norm(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + update`` and its layer norm, both in the dtype of ``x`` [..., D]."""
    x, update = x.contiguous(), update.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    width = x.shape[-1]
    _forward[(x.numel() // width,)](
        x, update, weight, bias, total, normed, width, eps, ADD=True, **norm_sizes(width)
    )  # fmt: skip
    return total, normed


@add_norm.register_fake
def _(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.custom_op("hpc_jepa::norms", mutates_args=())
def norms(levels: list[Tensor], weights: list[Tensor], biases: list[Tensor], eps: float, dtype: torch.dtype) -> Tensor:
    """Layer norms of L tensors [..., D] side by side: [..., L * D] of the given dtype."""
    width = levels[0].shape[-1]
    normed = levels[0].new_empty(*levels[0].shape[:-1], len(levels) * width, dtype=dtype)
    for index, (x, weight, bias) in enumerate(zip(levels, weights, biases, strict=True)):
        x = x.contiguous()
        part = normed[..., index * width :]
        _forward[(x.numel() // width,)](
            x, x, weight, bias, x, part, len(levels) * width, eps, ADD=False, **norm_sizes(width)
        )  # fmt: skip
    return normed


@norms.register_fake
def _(levels: list[Tensor], weights: list[Tensor], biases: list[Tensor], eps: float, dtype: torch.dtype) -> Tensor:
    return levels[0].new_empty(*levels[0].shape[:-1], len(levels) * levels[0].shape[-1], dtype=dtype)


@torch.library.custom_op("hpc_jepa::norm_backward", mutates_args=())
def norm_backward(
    x: Tensor, weight: Tensor, of_normed: Tensor, index: int, of_total: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the input [..., D] and of gain and bias [2, D] of level ``index`` of ``of_normed`` [..., L * D].

    ``of_total``: the gradient of the input that arrives beside the norm; it is added.
    """
    x, of_normed = x.contiguous(), of_normed.contiguous()
    width, row = x.shape[-1], of_normed.shape[-1]
    of_input = torch.empty_like(x)
    partial = torch.empty(2, PARTIAL_SUMS, width, dtype=torch.float32, device=x.device)
    _backward[(PARTIAL_SUMS,)](
        x, weight, of_normed[..., index * width :], x if of_total is None else of_total.contiguous(), of_input, partial,
        x.numel() // width, row, eps, ADD=of_total is not None, PROGRAMS=PARTIAL_SUMS, **norm_sizes(width),
    )  # fmt: skip
    return of_input, partial.sum(1)


@norm_backward.register_fake
def _(
    x: Tensor, weight: Tensor, of_normed: Tensor, index: int, of_total: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(2, x.shape[-1], dtype=torch.float32)


def norm_sizes(width: int) -> dict[str, int]:
    """Sizes a kernel is compiled for; a thread holds up to eight channels."""
    block = triton.next_power_of_2(width)
    return {"WIDTH": width, "BLOCK": block, "num_warps": min(max(block // 256, 1), 8)}


@triton.jit
def _standardised(value, inside, eps, WIDTH: tl.constexpr):
    """A row with mean 0 and variance 1, zero beyond its width, and the reciprocal of its standard deviation."""
    centred = tl.where(inside, value - tl.sum(value) / WIDTH, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred) / WIDTH + eps)
    return centred * scale, scale


@triton.jit
def _forward(
    x, update, weight, bias, total, normed, row_of_normed, eps,
    ADD: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    value = tl.load(x + row * WIDTH + channel, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(update + row * WIDTH + channel, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * WIDTH + channel, rounded, mask=inside)
        value = rounded.to(tl.float32)  # the norm is that of the stored sum
    standardised, _ = _standardised(value, inside, eps, WIDTH)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    result = standardised * gain + shift
    tl.store(normed + row * row_of_normed + channel, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])  # compiled once for all numbers of tokens
def _backward(
    x, weight, of_normed, of_total, of_input, partial, rows, row_of_normed, eps,
    ADD: tl.constexpr, PROGRAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    of_gain = tl.zeros([BLOCK], tl.float32)
    of_shift = tl.zeros([BLOCK], tl.float32)
    for row in range(program, rows, PROGRAMS):
        first = tl.cast(row, tl.int64)
        place = first * WIDTH + channel
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        incoming = tl.load(of_normed + first * row_of_normed + channel, mask=inside, other=0.0)
        incoming = incoming.to(tl.float32)
        standardised, scale = _standardised(value, inside, eps, WIDTH)
        of_gain += incoming * standardised
        of_shift += incoming
        slope = incoming * gain
        along = tl.sum(slope * standardised) / WIDTH
        slope = (slope - tl.sum(slope) / WIDTH - standardised * along) * scale
        if ADD:
            slope += tl.load(of_total + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(of_input + place, slope.to(of_input.dtype.element_ty), mask=inside)
    tl.store(partial + program * WIDTH + channel, of_gain, mask=inside)
    tl.store(partial + (PROGRAMS + program) * WIDTH + channel, of_shift, mask=inside)
