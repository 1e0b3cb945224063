"""The EMA target, averaged where its shards lie."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TargetAverage:
    """``target <- target + (1 - m) * (student - target)`` in float32, one pass, in this rounding order (lerp).

    ZeRO stages 0-2 replicate parameters: every process averages all of them, alike. Stage 3 partitions the frozen
    target as it does the student, padding included, so every process averages its own shards: nothing is gathered.
    """

    def __init__(self, student: nn.Module, target: nn.Module) -> None:
        self._student = list(student.parameters())
        self._target = list(target.parameters())

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """One step with momentum ``m``; call after the optimizer's step."""
        torch._foreach_lerp_(_shards(self._target), _shards(self._student), 1.0 - momentum)


def _shards(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """What this process holds of each parameter."""
    return [getattr(parameter, "ds_tensor", parameter).data for parameter in parameters]
