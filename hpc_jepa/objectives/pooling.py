"""Means over mask groups and temporal pairs that need no host-device sync for their counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_jepa.objectives.pairs import Pairs
from hpc_jepa.types import TokenMasks


def context_mean(errors: Tensor, masks: TokenMasks) -> Tensor:
    """Mean of per-token errors [B, K] over the context tokens of the batch that are no padding."""
    if masks.padding is None:
        return errors.mean()
    return batch_mean(errors * masks.padding.is_real(masks.context), masks.padding.context_count)


def target_mean(errors: Tensor, masks: TokenMasks) -> Tensor:
    """Mean of per-token errors [B, Q] over the target tokens of the batch that are no padding."""
    if masks.padding is None:
        return errors.mean()
    return batch_mean(errors * masks.padding.is_real(masks.target), masks.padding.target_count)


def mean_over_mask_groups(values: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """Mean of the values of the groups with a positive count; 0 if there is none."""
    contributes = torch.stack([(count > 0).to(value.dtype) for value, count in zip(values, counts, strict=True)])
    return (torch.stack(list(values)) * contributes).sum() / contributes.sum().clamp(min=1)


def mean_over_pairs(errors: Sequence[Tensor], pairs: Sequence[Pairs]) -> Tensor:
    """Mean of per-token errors [B, K] over the valid pairs of each mask group, then over the groups.

    Pairs are pooled over the batch: each has the same weight, regardless of its clip and process.
    """
    pooled = [batch_mean(error * group.valid, group.count) for error, group in zip(errors, pairs, strict=True)]
    return mean_over_mask_groups(pooled, [group.count for group in pairs])


def batch_mean(errors: Tensor, count: Tensor) -> Tensor:
    """Sum of ``errors`` divided by ``count``; 0 if the count is 0.

    A count averaged over processes can be between 0 and 1, if there are fewer items than processes.
    """
    return errors.sum() / count.where(count > 0, 1)
