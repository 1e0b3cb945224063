"""Absolute error of predicted tokens without a copy of their targets."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 128
"""Tokens per chunk on a CPU: half as many need more calls, four times as many exceed the L2 cache."""


def masked_error(prediction: Tensor, features: Tensor, tokens: Tensor, levels: int = 0) -> Tensor:
    """Mean absolute error of each predicted token: [B, Q] float32.

    prediction: [B, Q, D]. features: [B, N, D]; the target of prediction [b, q] is token ``tokens[b, q]`` [B, Q].
    levels: if > 0, each of that many blocks of a target's channels is first layer-normalised without gain (eps 1e-5).

    Targets are gathered, normalised and compared in one pass and not stored; the backward pass gathers them again. This
    form has no gradient with respect to ``features``. If they need one, or under torch.compile, which fuses by itself,
    the plain form runs.
    """
    if features.requires_grad or torch.compiler.is_compiling():
        return plain_masked_error(prediction, features, tokens, levels)
    if prediction.is_cuda:
        from hpc_jepa.kernels.triton.masked_error import TritonMaskedError  # Triton comes with CUDA builds only

        return TritonMaskedError.apply(prediction, features, tokens, levels)  # type: ignore[no-any-return, no-untyped-call]
    return _MaskedError.apply(prediction, features, tokens, levels)  # type: ignore[no-any-return, no-untyped-call]


def plain_masked_error(prediction: Tensor, features: Tensor, tokens: Tensor, levels: int = 0) -> Tensor:
    """:func:`masked_error` as separate operations."""
    target = _normalised(features, levels).gather(1, tokens.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
    return (prediction - target).abs().mean(-1)


def _normalised(features: Tensor, levels: int) -> Tensor:
    """Features in float32; if ``levels`` > 0, with layer norm without gain over each level of the last axis."""
    features = features.float()
    if not levels:
        return features
    by_level = features.view(*features.shape[:-1], levels, -1)
    return F.layer_norm(by_level, by_level.shape[-1:]).flatten(-2)


class _MaskedError(torch.autograd.Function):
    """In chunks of tokens that stay in the cache; unchunked, every operation would read all of memory."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, features: Tensor, tokens: Tensor, levels: int) -> Tensor:
        first_token = torch.arange(len(tokens), device=tokens.device).unsqueeze(1) * features.shape[1]
        rows = (tokens + first_token).flatten()
        error = torch.empty(len(rows), device=prediction.device)
        for part, target in _targets(features, rows, levels):
            torch.mean(target.sub_(prediction.flatten(0, 1)[part]).abs_(), -1, out=error[part])
        ctx.save_for_backward(prediction, features, rows)
        ctx.levels = levels
        return error.view_as(tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prediction, features, rows = ctx.saved_tensors
        of_channel = (gradients[0] / prediction.shape[-1]).flatten().unsqueeze(1)
        gradient = torch.empty_like(prediction, memory_format=torch.contiguous_format).flatten(0, 1)
        for part, target in _targets(features, rows, ctx.levels):
            sign = torch.sub(prediction.flatten(0, 1)[part], target, out=target).sign_()
            torch.mul(sign, of_channel[part], out=gradient[part])
        return gradient.view_as(prediction), None, None, None


def _targets(features: Tensor, rows: Tensor, levels: int) -> Iterator[tuple[slice, Tensor]]:
    """Targets [<= ROWS, D] float32 of consecutive parts of ``rows``; all parts share one buffer."""
    buffer = features.new_empty(ROWS, features.shape[-1])
    for start in range(0, len(rows), ROWS):
        part = slice(start, min(start + ROWS, len(rows)))
        gathered = torch.index_select(features.flatten(0, 1), 0, rows[part], out=buffer[: part.stop - start])
        yield part, _normalised(gathered, levels)
