"""Gather, layer norm and absolute error in one pass over memory: one program per predicted token."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = tl.constexpr(1e-5)


class TritonMaskedError(torch.autograd.Function):
    """``masked_error`` on a GPU. Reads prediction and target once in each direction; backward writes the gradient."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, features: Tensor, tokens: Tensor, levels: int) -> Tensor:
        prediction, features, tokens = prediction.contiguous(), features.contiguous(), tokens.contiguous()
        error = torch.empty(tokens.shape, dtype=torch.float32, device=prediction.device)
        shape = _shape(prediction, features, levels)
        _forward[(tokens.numel(),)](prediction, features, tokens, error, **shape)
        ctx.save_for_backward(prediction, features, tokens)
        ctx.shape = shape
        return error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        prediction, features, tokens = ctx.saved_tensors
        gradient = torch.empty_like(prediction)
        incoming = gradients[0].contiguous()
        _backward[(tokens.numel(),)](prediction, features, tokens, incoming, gradient, **ctx.shape)
        return gradient, None, None, None


def _shape(prediction: Tensor, features: Tensor, levels: int) -> dict[str, int | bool]:
    """Sizes the kernels are compiled for; without normalisation, all channels form one level."""
    channels = features.shape[-1]
    width = features[0, 0].view(levels, -1).shape[-1] if levels else channels  # fails for levels of unequal width
    return {
        "predicted": prediction.shape[1],
        "tokens_of_clip": features.shape[1],
        "CHANNELS": channels,
        "WIDTH": width,
        "BLOCK": triton.next_power_of_2(width),
        "NORMALISE": levels > 0,
    }


@triton.jit
def _target(
    features, tokens, row, level, predicted, tokens_of_clip,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    """One level of the target of a predicted token; zero beyond its width."""
    channel = tl.arange(0, BLOCK)
    source = (row // predicted).to(tl.int64) * tokens_of_clip + tl.load(tokens + row)
    place = features + source * CHANNELS + level * WIDTH + channel
    target = tl.load(place, mask=channel < WIDTH, other=0.0).to(tl.float32)
    if NORMALISE:
        centred = tl.where(channel < WIDTH, target - tl.sum(target) / WIDTH, 0.0)
        target = centred / tl.sqrt(tl.sum(centred * centred) / WIDTH + EPS)
    return target


@triton.jit
def _forward(
    prediction, features, tokens, error, predicted, tokens_of_clip,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    total = 0.0
    for level in range(CHANNELS // WIDTH):
        target = _target(features, tokens, row, level, predicted, tokens_of_clip, CHANNELS, WIDTH, BLOCK, NORMALISE)
        place = prediction + row.to(tl.int64) * CHANNELS + level * WIDTH + channel
        predicted_level = tl.load(place, mask=channel < WIDTH, other=0.0).to(tl.float32)
        total += tl.sum(tl.abs(predicted_level - target))
    tl.store(error + row, total / CHANNELS)


@triton.jit
def _backward(
    prediction, features, tokens, error_gradient, gradient, predicted, tokens_of_clip,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    channel = tl.arange(0, BLOCK)
    of_channel = tl.load(error_gradient + row) / CHANNELS
    for level in range(CHANNELS // WIDTH):
        target = _target(features, tokens, row, level, predicted, tokens_of_clip, CHANNELS, WIDTH, BLOCK, NORMALISE)
        place = row.to(tl.int64) * CHANNELS + level * WIDTH + channel
        predicted_level = tl.load(prediction + place, mask=channel < WIDTH, other=0.0).to(tl.float32)
        difference = predicted_level - target
        sign = (difference > 0).to(tl.float32) - (difference < 0).to(tl.float32)
        tl.store(gradient + place, (sign * of_channel).to(gradient.dtype.element_ty), mask=channel < WIDTH)
