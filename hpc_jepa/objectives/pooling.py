"""Means over mask groups and over temporal pairs, without asking the device how many there are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_jepa.latents import TokenMasks


def mean_over_groups(values: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """Mean of the group values whose count is positive; 0 where no group has anything to say."""
    contributes = torch.stack([(count > 0).to(value.dtype) for value, count in zip(values, counts, strict=True)])
    return (torch.stack(list(values)) * contributes).sum() / contributes.sum().clamp(min=1)


def mean_over_pairs(errors: Sequence[Tensor], valid: Sequence[Tensor], masks: Sequence[TokenMasks]) -> Tensor:
    """Mean of per-token errors [B, K] over the valid temporal pairs of each group, then over groups.

    Pairs are pooled over the batch: every pair weighs the same, whichever clip or process it belongs to.
    """
    counts = [group.pairs for group in masks]
    pooled = [
        (error * weight).sum() / count.clamp(min=1) for error, weight, count in zip(errors, valid, counts, strict=True)
    ]
    return mean_over_groups(pooled, counts)
