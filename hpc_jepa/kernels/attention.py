"""Attention over all tokens, with the one exception that PyTorch's own is not the fastest at."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LONG = 256
"""Tokens from which a head is worth the calls it takes by itself."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d)) value, all [B, heads, N, d].

    PyTorch's fused kernel, but for long sequences in bf16 on a CPU: its own products are slower there than whole
    matrix products of one head after the other, whose scores [N, N] stay in the cache. Neither keeps the scores. These
    are rounded to bf16 there, as every product under autocast is; PyTorch's kernel has them in float32.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] >= LONG:
        scaled = query / math.sqrt(query.shape[-1])
        heads = (x.flatten(0, 1) for x in (scaled, key, value))
        return _HeadByHead.apply(*heads).view_as(value)  # type: ignore[no-any-return, no-untyped-call]
    return F.scaled_dot_product_attention(query, key, value)


class _HeadByHead(torch.autograd.Function):
    """softmax(query key^T) value for each of [M, N, d]; the backward pass makes the probabilities anew."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        attended = torch.empty_like(value, memory_format=torch.contiguous_format)
        probabilities = _square(query)
        for q, k, v, out in zip(query, key, value, attended, strict=True):
            _attend(q, k, into=probabilities)
            torch.mm(probabilities, v, out=out)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        outputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
        probabilities, scores = _square(inputs[0]), _square(inputs[0])
        for q, k, v, gradient, for_q, for_k, for_v in zip(*inputs, gradients[0], *outputs, strict=True):
            _attend(q, k, into=probabilities)
            torch.mm(probabilities.T, gradient, out=for_v)
            torch.mm(gradient, v.T, out=scores)
            torch.ops.aten._softmax_backward_data.out(scores, probabilities, -1, scores.dtype, grad_input=scores)
            torch.mm(scores, k, out=for_q)
            torch.mm(scores.T, q, out=for_k)
        return tuple(outputs)


def _square(query: Tensor) -> Tensor:
    """Room for the scores of one head, [N, N]."""
    return query.new_empty(query.shape[1], query.shape[1])


def _attend(query: Tensor, key: Tensor, into: Tensor) -> None:
    """softmax(query key^T) of one head [N, d]."""
    torch.mm(query, key.T, out=into)
    torch.softmax(into, -1, out=into)
