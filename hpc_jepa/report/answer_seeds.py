"""How many pretraining seeds would decide a comparison that is not decided, from the spread that it measured."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.blocked import Comparison
from hpc_jepa.evaluation.stats.planning import MOST_SEEDS, Design, FamilyTest, Spread, seeds_needed
from hpc_jepa.report.result_grid import SIGNIFICANCE


@dataclass(frozen=True)
class AnswerSeeds:
    """Seeds with which a true difference of the measured size is found with 80 % power, as the first of its family.

    ``seeds``: None if more than MOST_SEEDS, because the test clips limit the comparison or there is no difference.
    """

    seeds: int | None

    @property
    def number(self) -> str:
        """``14``, or ``more than 1,000``."""
        return f"more than {MOST_SEEDS:,}" if self.seeds is None else f"{self.seeds:,}"

    @property
    def clause(self) -> str:
        """``about 14 seeds would``, or that the largest number which is tried would not."""
        return f"even {MOST_SEEDS:,} seeds would not" if self.seeds is None else f"about {self.seeds:,} seeds would"


def seeds_to_decide(found: Comparison, means: NDArray[np.float64], clips: int, family: int) -> AnswerSeeds | None:
    """Of a comparison whose difference is ``means`` [S] in each seed; None where one seed gives no spread.

    The part of its variance that is not between seeds is that of the test clips, which more seeds do not lower.
    """
    if found.seeds < 2 or means.size < 2:
        return None
    between = float(means.var(ddof=1))
    clip_variance = max(found.standard_error**2 - between / means.size, 0.0)
    spread = Spread(math.sqrt(between / 2), 0.0, clips, math.sqrt(clip_variance))
    design: Design = "blocked" if found.method == "blocked" else "paired"
    seeds = seeds_needed(spread, design, found.value, FamilyTest(SIGNIFICANCE, max(family, 1)))
    return AnswerSeeds(None if seeds is None else max(seeds, found.seeds + 1))
