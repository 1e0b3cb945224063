"""Steps whose loss or gradient is not a finite number change nothing, and are counted; nothing asks the device."""

from collections import Counter
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpc_jepa.distributed import rank, world_size


@dataclass(frozen=True)
class SkippedSteps:
    """Steps without a finite loss or gradient since the last look: how many, the longest row, and who saw them."""

    steps: int
    consecutive: int
    ranks: Counter[int]

    def __str__(self) -> str:
        """For people."""
        seen = ", ".join(f"rank {number} ({count})" for number, count in sorted(self.ranks.items()))
        return f"{self.steps} skipped, loss or gradient not finite on {seen or 'no rank alone, only in their sum'}"


class NonFiniteGuard:
    """Looks at every step's loss and gradient, on the device, and keeps count there.

    ``witness`` is a small parameter behind everything else in the backward pass: a gradient that is not finite anywhere
    above has passed into its gradient, seen here before it is averaged over processes.
    """

    def __init__(self, canary: nn.Parameter, device: torch.device) -> None:
        self._gradient_is_broken = torch.zeros((), dtype=torch.bool, device=device)
        self._seen = torch.zeros(world_size(), device=device)
        self._now = torch.zeros(world_size(), device=device)
        self._row = torch.zeros((), device=device)
        self._longest = torch.zeros((), device=device)
        self._skipped = torch.zeros((), device=device)
        canary.register_hook(self._look)  # type: ignore[no-untyped-call]

    def nonfinite(self, loss: Tensor) -> Tensor:
        """Whether any process has a loss or gradient that is not finite; call after the backward pass. Collective."""
        mine = ~loss.detach().isfinite() | self._gradient_is_broken
        self._gradient_is_broken.zero_()
        self._now = torch.zeros_like(self._seen)
        self._now[rank()] = mine
        if world_size() > 1:
            dist.all_reduce(self._now)
        return self._now.any()

    def count(self, skipped: Tensor) -> None:
        """Another step; ``skipped`` says whether it changed nothing."""
        self._seen += self._now
        self._row = torch.where(skipped, self._row + 1, 0)
        self._longest = torch.maximum(self._longest, self._row)
        self._skipped += skipped

    def consecutive(self) -> int:
        """Steps skipped up to now without one that was done. Asks the device: for between steps, not within."""
        return int(self._row)

    def take(self) -> Tensor:
        """Counts since the last call [2 + world], on the device: see ``told``."""
        counts = torch.cat([self._skipped[None], self._longest[None], self._seen])
        self._skipped, self._longest = torch.zeros_like(self._skipped), torch.zeros_like(self._longest)
        self._seen = torch.zeros_like(self._seen)
        return counts

    def _look(self, gradient: Tensor) -> None:
        self._gradient_is_broken |= ~gradient.isfinite().all()


def skipped_from_counts(counts: list[float]) -> SkippedSteps:
    """Counts that have arrived on the host."""
    steps, row, *seen = (round(count) for count in counts)
    return SkippedSteps(steps, row, Counter({number: count for number, count in enumerate(seen) if count}))
