"""Skip optimizer steps with a non-finite loss or gradient, counting them on the device without a host sync."""

from collections import Counter
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpc_jepa.distributed import rank, world_size


@dataclass(frozen=True)
class SkippedSteps:
    """Skipped steps since the last log: how many, the longest consecutive run, and the ranks that had the values.

    ``ranks`` is empty if every rank's values were finite and only their sum over ranks was not.
    """

    steps: int
    consecutive: int
    ranks: Counter[int]

    @classmethod
    def from_counts(cls, counts: list[float]) -> "SkippedSteps":
        """From the counts of :meth:`NonFiniteGuard.pop_counts`, copied to the host."""
        steps, consecutive, *by_rank = (round(count) for count in counts)
        return cls(steps, consecutive, Counter({number: count for number, count in enumerate(by_rank) if count}))

    def __str__(self) -> str:
        ranks = ", ".join(f"rank {number} ({count})" for number, count in sorted(self.ranks.items()))
        return f"{self.steps} skipped, non-finite loss or gradient on {ranks or 'no single rank, only in the sum'}"


class NonFiniteGuard:
    """Checks the loss and gradient of every step on the device.

    ``canary``: a small parameter at the end of the backward pass. A non-finite gradient anywhere above propagates into
    its gradient, where it is detected before gradients are averaged over ranks.
    """

    def __init__(self, canary: nn.Parameter, device: torch.device) -> None:
        self._canary_nonfinite = torch.zeros((), dtype=torch.bool, device=device)
        self._by_rank = torch.zeros(world_size(), device=device)
        self._this_step = torch.zeros(world_size(), device=device)
        self._consecutive = torch.zeros((), device=device)
        self._longest = torch.zeros((), device=device)
        self._skipped = torch.zeros((), device=device)
        canary.register_hook(self._check_canary)  # type: ignore[no-untyped-call]

    def nonfinite(self, loss: Tensor, can_overflow: Tensor | None = None) -> Tensor:
        """Whether any rank has a non-finite loss or gradient; call it after the backward pass. Collective.

        can_overflow: in fp16, whether a gradient may overflow, which is then no fault.
        """
        gradient = self._canary_nonfinite if can_overflow is None else self._canary_nonfinite & ~can_overflow
        local = ~loss.detach().isfinite() | gradient
        self._canary_nonfinite.zero_()
        self._this_step = torch.zeros_like(self._by_rank)
        self._this_step[rank()] = local
        if world_size() > 1:
            dist.all_reduce(self._this_step)
        return self._this_step.any()

    def count_step(self, skipped: Tensor, overflow: Tensor | None = None) -> None:
        """Count one step; ``skipped``: whether its update was skipped for a fault; ``overflow``: for another reason."""
        self._by_rank += self._this_step
        fine = torch.zeros_like(self._consecutive) if overflow is None else self._consecutive * overflow
        self._consecutive = torch.where(skipped, self._consecutive + 1, fine)
        self._longest = torch.maximum(self._longest, self._consecutive)
        self._skipped += skipped

    def consecutive(self) -> int:
        """Steps skipped in a row up to now. A host sync: call it between steps."""
        return int(self._consecutive)

    def pop_counts(self) -> Tensor:
        """Counts since the last call [2 + world size], on the device: for :meth:`SkippedSteps.from_counts`."""
        counts = torch.cat([self._skipped[None], self._longest[None], self._by_rank])
        self._skipped, self._longest = torch.zeros_like(self._skipped), torch.zeros_like(self._longest)
        self._by_rank = torch.zeros_like(self._by_rank)
        return counts

    def _check_canary(self, gradient: Tensor) -> None:
        self._canary_nonfinite |= ~gradient.isfinite().all()
