"""AdamW and the average of the target in one pass over memory: one program for each block of elements."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def one_pass(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    target: Tensor,
    step: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    momentum: float,
    skip: Tensor,
) -> None:
    """``adamw_average_`` on a GPU. Reads five buffers and writes four: 36 bytes a parameter."""
    step.add_(1 - skip)
    count = step.double()
    rate = (lr / (1 - betas[0] ** count)).float()
    root = (1 - betas[1] ** count).sqrt().float()
    elements = parameter.numel()
    _update[(triton.cdiv(elements, BLOCK),)](
        parameter, gradient, mean, square, target, rate, root, skip, elements,
        lr * weight_decay, 1 - betas[0], betas[1], 1 - betas[1], eps, 1 - momentum, BLOCK,
    )  # fmt: skip


@triton.jit
def _update(
    parameter, gradient, mean, square, target, rate, root, skip, elements,
    decay, mean_weight, square_keep, square_weight, eps, target_weight, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < elements
    value = tl.load(parameter + place, mask=inside)
    if tl.load(skip) == 0:
        slope = tl.load(gradient + place, mask=inside)
        first = tl.load(mean + place, mask=inside)
        second = tl.load(square + place, mask=inside)
        first += mean_weight * (slope - first)
        second = square_keep * second + square_weight * slope * slope
        value -= decay * value
        spread = tl.div_rn(tl.sqrt_rn(second), tl.load(root)) + eps
        value -= tl.div_rn(tl.load(rate) * first, spread)
        tl.store(mean + place, first, mask=inside)
        tl.store(square + place, second, mask=inside)
        tl.store(parameter + place, value, mask=inside)
    average = tl.load(target + place, mask=inside)
    difference = value - average
    near, far = average + target_weight * difference, value - (1 - target_weight) * difference
    tl.store(target + place, tl.where(target_weight < 0.5, near, far), mask=inside)
