"""Means over mask groups and over temporal pairs, without asking the device how many there are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_jepa.distributed import sum_over_processes, world_size
from hpc_jepa.objectives.objective import ObjectiveContext
from hpc_jepa.objectives.pairs import Pairs


def mean_over_mask_groups(values: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """Mean of the group values whose count is positive; 0 where no group has anything to say."""
    contributes = torch.stack([(count > 0).to(value.dtype) for value, count in zip(values, counts, strict=True)])
    return (torch.stack(list(values)) * contributes).sum() / contributes.sum().clamp(min=1)


def mean_over_pairs(errors: Sequence[Tensor], pairs: Sequence[Pairs]) -> Tensor:
    """Mean of per-token errors [B, K] over the valid pairs of each group, then over groups.

    Pairs are pooled over the batch: every pair weighs the same, whichever clip or process it belongs to.
    """
    pooled = [batch_mean(error * group.valid, group.count) for error, group in zip(errors, pairs, strict=True)]
    return mean_over_mask_groups(pooled, [group.count for group in pairs])


def batch_mean(errors: Tensor, count: Tensor) -> Tensor:
    """Sum of ``errors`` over ``count``; 0 where there is nothing to count.

    A count that is averaged over processes may lie between 0 and 1: fewer things to count than processes.
    """
    return errors.sum() / count.where(count > 0, 1)


def batch_count(count: Tensor, ctx: ObjectiveContext) -> Tensor:
    """A count of this process, averaged over processes where statistics are those of the whole batch.

    Gradients are averaged over processes, so a sum divided by this gives the gradient of the mean over all of them.
    """
    if ctx.semantics.batch_statistics == "global":
        return sum_over_processes(count) / world_size()
    return count
