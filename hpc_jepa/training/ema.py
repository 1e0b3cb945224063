"""The EMA target, averaged where its shards lie."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class TargetEMA:
    """``target <- target + (1 - m) * (student - target)`` in float32, one pass, in this rounding order (lerp).

    ZeRO stages 0-2 replicate parameters: every process averages all of them, alike. Stage 3 partitions the frozen
    target as it does the student, padding included, so every process averages its own shards: nothing is gathered.

    The target is laid out as the student lies in memory, so that neighbours are averaged in one stretch: at the speed
    of a copy, where tensor by tensor a processor takes longer. That is one kernel per stretch on a GPU too.

    It is not joined with the optimizer's pass (:func:`hpc_jepa.kernels.adamw.adamw_average_`), which would move 8 bytes
    a parameter instead of 12. At stage 0 gradients lie tensor by tensor: a launch for each would cost more than is
    spared. At stages 1 and 2 the optimizer has its own part alone, and the rest is averaged after it was gathered. At
    stage 3 it could be done, for 4 bytes of each parameter of the process's share.
    """

    def __init__(self, student: nn.Module, target: nn.Module) -> None:
        self._student = list(student.parameters())
        self._target = list(target.parameters())
        self._places: list[int] = []
        self._stretches: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """One step with momentum ``m``; call after the optimizer's step."""
        student, target = _shards(self._student), _shards(self._target)
        places = [shard.data_ptr() for shard in (*student, *target)]
        if places != self._places:
            self._stretches = list(_aligned(student, target))
            self._places = [shard.data_ptr() for shard in (*student, *target)]
        for averages, values in self._stretches:
            averages.lerp_(values, 1.0 - momentum)


def pack_parameters(shards: Sequence[Tensor]) -> Tensor:
    """Move ``shards`` next to each other; returns the memory [sum of elements] they are views of from now on."""
    together = torch.cat([shard.data.flatten() for shard in shards])
    for shard, place in zip(shards, torch.split(together, [shard.numel() for shard in shards]), strict=True):
        shard.data = place.view_as(shard)
    return together


def _aligned(student: Sequence[Tensor], target: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Move the target's shards to lie as the student's do; yields stretches of both, flat and of one length."""
    for stretch in _stretches(student):
        first, elements = student[stretch[0]], sum(student[number].numel() for number in stretch)
        yield pack_parameters([target[number] for number in stretch]), first.data.as_strided((elements,), (1,))


def _stretches(shards: Sequence[Tensor]) -> Iterator[list[int]]:
    """Numbers of shards that follow each other in memory, stretch by stretch."""
    stretch: list[int] = []
    for number in sorted(range(len(shards)), key=lambda number: shards[number].data_ptr()):
        if stretch and not _follows(shards[stretch[-1]], shards[number]):
            yield stretch
            stretch = []
        stretch.append(number)
    if stretch:
        yield stretch


def _follows(before: Tensor, after: Tensor) -> bool:
    same_memory = before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    return same_memory and before.data_ptr() + before.nbytes == after.data_ptr()


def _shards(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """What this process holds of each parameter."""
    return [getattr(parameter, "ds_tensor", parameter) for parameter in parameters]
