"""Sources of a mixture: their weights and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MixtureSource:
    """One source of the mixture: relative weight, samples in each tar, and whether it holds images only."""

    weight: float
    shard_sizes: Sequence[int]
    images: bool = False
    ends: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(self.shard_sizes, dtype=np.int64))

    @property
    def size(self) -> int:
        """Number of samples."""
        return int(self.ends[-1])
