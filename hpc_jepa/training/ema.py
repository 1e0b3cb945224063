"""Exponential moving average (EMA) of the student's weights: the target encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TargetEMA:
    """``target <- target + (1 - m) * (student - target)`` in float32, one lerp per parameter.

    ZeRO stages 0-2 replicate parameters, and every rank updates all of them identically. Stage 3 shards the frozen
    target exactly as it shards the student, padding included, so every rank updates its own shards. No stage
    communicates.
    """

    def __init__(self, student: nn.Module, target: nn.Module) -> None:
        self._student = list(student.parameters())
        self._target = list(target.parameters())

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Update the target with momentum ``m``; call it after the optimizer step."""
        torch._foreach_lerp_(_local_shards(self._target), _local_shards(self._student), 1.0 - momentum)


def _local_shards(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The part of each parameter that this rank holds: ``ds_tensor`` at stage 3, else all of it."""
    return [getattr(parameter, "ds_tensor", parameter) for parameter in parameters]
