import numpy as np
import pytest
from scipy.stats import t

from hpc_jepa.evaluation.stats.planning import POWER, FamilyTest, detectable_difference


def test_the_detectable_difference_is_found_with_the_stated_power():
    test = FamilyTest(comparisons=10)
    smallest = detectable_difference(0.01, 12.0, test)
    rng = np.random.default_rng(0)
    draws = (smallest + 0.01 * rng.standard_normal(200_000)) / (0.01 * np.sqrt(rng.chisquare(12, 200_000) / 12))
    assert (draws > t.isf(test.level / 2, 12)).mean() == pytest.approx(POWER, abs=0.005)
