"""What sources of numbers give to claims: values with intervals, and what limits them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.report.predicates import ClaimCell, Pair

Limit = Literal["", "one seed", "not decided by the looks", "no comparison of the study"]
"""Why the interval of a number decides nothing, beyond the sign that its grid has decided. Empty: it decides."""

ABOVE_ZERO = math.nextafter(0.0, math.inf)
"""End of an interval that leaves out zero and nothing else."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in percent or percentage points.

    ``limit``: what the interval leaves out. ``significant``: whether the difference is one by the rule of its grid;
    None: whether the interval excludes zero.
    """

    value: float
    low: float
    high: float
    limit: Limit = ""
    significant: bool | None = None

    def __neg__(self) -> "Interval":
        return Interval(-self.value, -self.high, -self.low, self.limit, self.significant)

    @property
    def above_zero(self) -> bool:
        """Whether the difference is significant and positive."""
        return self.low > 0 if self.significant is None else self.significant and self.value > 0

    @property
    def below_zero(self) -> bool:
        """Whether the difference is significant and negative."""
        return (-self).above_zero

    @property
    def agreeing(self) -> "Interval":
        """The interval that excludes zero, and all of one sign, exactly if the difference is significant.

        Holm's correction is over all benchmarks and the simultaneous interval over the variants of one, so either can
        decide where the other does not.
        """
        low, high = self.low, self.high
        if self.above_zero:
            low = max(low, ABOVE_ZERO)
        elif self.below_zero:
            high = min(high, -ABOVE_ZERO)
        else:
            low, high = min(low, -ABOVE_ZERO), max(high, ABOVE_ZERO)
        return Interval(self.value, low, high, self.limit, self.significant)

    @property
    def certain(self) -> "Interval":
        """What holds in spite of the limit: the sign, if it is decided."""
        if not self.limit:
            return self
        low = ABOVE_ZERO if self.significant and self.value > 0 else -math.inf
        high = -ABOVE_ZERO if self.significant and self.value < 0 else math.inf
        return Interval(self.value, low, high, self.limit, bool(self.significant))


@dataclass(frozen=True)
class JointValues:
    """Values of several accuracies, and draws of what other seeds and test clips could have made of them.

    ``values`` [n] and ``draws`` [D, n], in percent, in the order of the accuracies.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    limit: Limit = ""


def listing(names: Iterable[str], shown: int = 3) -> str:
    """``a, b, c and 2 more``, each name once."""
    distinct = list(dict.fromkeys(names))
    rest = len(distinct) - shown
    return ", ".join(distinct[:shown]) + (f" and {rest} more" if rest > 0 else "")


class Evidence(Protocol):
    """A source of numbers: a publication, or the runs of a study under one semantics."""

    @property
    def name(self) -> str:
        """Name of the source in the report."""

    def same(self, cell: ClaimCell) -> ClaimCell:
        """The accuracy that a cell names: one for all cells that the source does not distinguish."""

    def score(self, cell: ClaimCell) -> Interval | None:
        """Accuracy in percent, None if it is missing."""

    def difference(self, minuend: ClaimCell, subtrahend: ClaimCell) -> Interval | None:
        """Difference in points, None if it is missing."""

    def joint(self, cells: Sequence[ClaimCell]) -> JointValues | None:
        """Accuracies of variants on several benchmarks, all variants on each; None if one is missing."""

    def constant(self, name: str) -> Any:
        """A constant of the design, None if it is unknown."""

    def caveats(self, cells: Sequence[ClaimCell], pairs: Sequence[Pair]) -> tuple[str, ...]:
        """What limits the numbers of a claim, beside their intervals."""
