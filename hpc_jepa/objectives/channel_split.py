"""Split of the training latent [.., D = L*C] into an appearance and a dynamics part."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from hpc_jepa.objectives.objective import ObjectiveContext


class Parts(NamedTuple):
    """Two views of the channels: [.., D_appearance] and [.., D_dynamics]."""

    appearance: Tensor
    dynamics: Tensor


def split_channels(features: Tensor, ratio: float, ctx: ObjectiveContext) -> Parts:
    """The leading ``ratio`` of the channels is appearance, the rest dynamics.

    ``halves`` cuts the concatenation of levels, so that appearance is the shallow levels (published, B3); ``per_level``
    cuts every level; ``last_level`` cuts the last level and drops the others.
    """
    partition = ctx.semantics.channel_partition
    if partition == "last_level":
        features = features[..., -ctx.width :]
    if partition != "per_level":
        cut = _cut(features.shape[-1], ratio)
        return Parts(features[..., :cut], features[..., cut:])
    cut = _cut(ctx.width, ratio)
    by_level = rearrange(features, "... (level channel) -> ... level channel", level=ctx.levels)
    return Parts(by_level[..., :cut].flatten(-2), by_level[..., cut:].flatten(-2))


def split_widths(ratio: float, ctx: ObjectiveContext) -> tuple[int, int]:
    """Channels of the two parts."""
    appearance, dynamics = split_channels(torch.empty(ctx.latent_width, device="meta"), ratio, ctx)
    return len(appearance), len(dynamics)


def _cut(channels: int, ratio: float) -> int:
    return max(1, int(channels * ratio))
