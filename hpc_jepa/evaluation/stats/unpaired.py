"""Compare accuracies known only as counts, and compute minimum detectable gains."""

from dataclasses import dataclass

from scipy.optimize import brentq
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    power_proportions_2indep,
    proportion_confint,
    test_proportions_2indep,
)

from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL, Estimate

POWER = 0.8


@dataclass(frozen=True)
class CorrectCount:
    """``right`` of ``n`` test clips were classified correctly."""

    right: int
    n: int

    @property
    def share(self) -> float:
        """Fraction correct, in [0, 1]."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson (1927) 95 % interval of the fraction."""
        low, high = proportion_confint(self.right, self.n, alpha=1 - CONFIDENCE_LEVEL, method="wilson")
        return float(low), float(high)


def compare_unpaired(first: CorrectCount, second: CorrectCount) -> Estimate:
    """Difference of two unpaired proportions: Newcombe's (1998) interval, score test of Miettinen & Nurminen (1985).

    If both were measured on the same clips, a paired interval would usually be narrower; it needs per-clip predictions.
    """
    counts = (first.right, first.n, second.right, second.n)
    low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb", alpha=1 - CONFIDENCE_LEVEL)
    return Estimate(first.share - second.share, float(low), float(high), _score_p(first, second))


def minimum_detectable_gain(share: float, n: int, tests: int = 1) -> float:
    """Smallest gain over accuracy ``share`` that two unpaired runs on ``n`` clips detect with 80 % power at 5 %.

    ``tests`` > 1 divides the level by their number (Bonferroni), which the smallest p-value of a Holm family must pass.
    Returns a gain in (0, 1), or NaN if even a step to 100 % would have less power.
    """
    share = min(max(share, 0.5 / n), 1 - 0.5 / n)

    def excess(gain: float) -> float:
        return float(power_proportions_2indep(gain, share, n, alpha=(1 - CONFIDENCE_LEVEL) / tests).power) - POWER

    largest = 1 - share - 0.25 / n
    return float(brentq(excess, 0.01 / n, largest)) if excess(largest) > 0 else float("nan")


def _score_p(first: CorrectCount, second: CorrectCount) -> float:
    if first.right + second.right in (0, first.n + second.n):
        return 1.0  # all correct or all wrong on both sides: the score test is undefined
    counts = (first.right, first.n, second.right, second.n)
    return float(test_proportions_2indep(*counts, compare="diff", method="score").pvalue)
