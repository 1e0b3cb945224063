"""How the training latent [.., D = L*C] is split into an appearance and a dynamics part."""

from typing import NamedTuple

from einops import rearrange
from torch import Tensor

from hpc_jepa.objectives.objective import Setting


class Parts(NamedTuple):
    """Two views of the channels: [.., D_appearance] and [.., D_dynamics]."""

    appearance: Tensor
    dynamics: Tensor


def split(features: Tensor, ratio: float, setting: Setting) -> Parts:
    """Appearance takes the leading ``ratio`` of the channels, dynamics the rest.

    ``halves`` cuts the level concatenation, so that appearance is the shallow levels (published, B3); ``per_level``
    cuts inside every level; ``last_level`` cuts the last level and leaves the others out.
    """
    partition = setting.semantics.channel_partition
    if partition == "halves":
        cut = _cut(setting.latent_width, ratio)
        return Parts(features[..., :cut], features[..., cut:])
    cut = _cut(setting.width, ratio)
    if partition == "last_level":
        last = features[..., -setting.width :]
        return Parts(last[..., :cut], last[..., cut:])
    by_level = rearrange(features, "... (level channel) -> ... level channel", level=setting.levels)
    return Parts(by_level[..., :cut].flatten(-2), by_level[..., cut:].flatten(-2))


def dynamics_width(ratio: float, setting: Setting) -> int:
    """Channels of the dynamics part."""
    partition = setting.semantics.channel_partition
    if partition == "halves":
        return setting.latent_width - _cut(setting.latent_width, ratio)
    per_level = setting.width - _cut(setting.width, ratio)
    return per_level if partition == "last_level" else per_level * setting.levels


def _cut(channels: int, ratio: float) -> int:
    return max(1, int(channels * ratio))
