"""Is the representation collapsing? Spread and effective rank of the target's last level."""

from typing import NamedTuple

import torch
from torch import Tensor


class TargetHealth(NamedTuple):
    """target_std: mean over channels of the standard deviation over tokens. effective_rank: exp of spectral entropy."""

    target_std: Tensor
    effective_rank: Tensor


@torch.no_grad()
def target_health(target: Tensor, levels: int, tokens: int) -> TargetHealth:
    """Measure ``target`` [B, N, D] on about ``tokens`` evenly spaced tokens, without asking the device anything.

    The effective rank is ``exp(-sum p log p)`` with p the normalised singular values of the centred sample (Roy and
    Vetterli 2007): 1 when all tokens lie on a line, the width when they fill the space evenly.
    """
    last = target.flatten(0, 1)[:, -(target.shape[-1] // levels) :]
    sample = last[:: max(last.shape[0] // tokens, 1)][:tokens].double()  # squares of small values would drown in fp32
    centred = sample - sample.mean(0)
    covariance = centred.T @ centred
    # Broken numbers show in the spread; the solver would raise on them, and say nothing of where they came from.
    singular = torch.linalg.eigvalsh(covariance.nan_to_num()).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    return TargetHealth(centred.square().mean(0).sqrt().mean(), torch.exp(torch.special.entr(share).sum()))
