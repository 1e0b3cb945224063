"""AdamW and the average of what it updates, over flat memory."""

import torch
from torch import Tensor


def adamw_average_(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    target: Tensor,
    *,
    step: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    momentum: float,
    skip: Tensor,
) -> None:
    """Update ``parameter`` by AdamW (Loshchilov & Hutter 2019, algorithm 2), then move ``target`` to it; in place.

    parameter, gradient, mean, square, target: [N] float32, contiguous. step: updates up to now. skip: 1.0 for a step
    that changes neither parameter nor moments nor ``step``, whatever the gradient holds, else 0.0; the target moves in
    any case. Both are float32 scalars on the same device, which is asked nothing.

    On a GPU it is one pass: 28 bytes a parameter for AdamW and 8 for the average, which takes 12 by itself. Each
    operation is rounded to float32 as written, save that a product may be rounded together with the sum it goes into;
    the two factors of ``step`` are rounded from float64:

        parameter <- parameter - (lr weight_decay) parameter
        mean      <- mean + (1 - beta1) (gradient - mean)
        square    <- beta2 square + (1 - beta2) gradient^2
        parameter <- parameter - (lr / (1 - beta1^step)) mean / (sqrt(square) / sqrt(1 - beta2^step) + eps)
        target    <- target + (1 - momentum) (parameter - target), as ``Tensor.lerp_`` rounds it

    On a CPU it is PyTorch's fused AdamW and a lerp, to the bit. Taking turns in parts that fit a cache was measured
    there: a twentieth is gained in one thread, and threads that wait for each other in every part take several times as
    long.
    """
    if parameter.is_cuda:
        from hpc_jepa.kernels.triton.adamw import one_pass  # Triton comes with CUDA builds only

        one_pass(parameter, gradient, mean, square, target, step, lr, betas, eps, weight_decay, momentum, skip)
        return
    step.add_(1 - skip)
    torch._fused_adamw_(
        [parameter],
        [gradient],
        [mean],
        [square],
        [],
        [step],
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
        found_inf=skip,
    )
    target.lerp_(parameter, 1 - momentum)
