import numpy as np
import pytest
from scipy.stats import multivariate_t, t
from statsmodels.stats.multitest import multipletests

from hpc_jepa.evaluation.stats.simultaneous import holm, simultaneous_level


@pytest.mark.parametrize(
    "comparisons, df, quantile",
    [(2, 10, 2.57), (3, 10, 2.76), (9, 10, 3.24), (2, 20, 2.38), (5, 20, 2.73), (9, 20, 2.95)],
)
def test_multiplier_is_dunnetts(comparisons, df, quantile):
    """Two-sided 5 % points of Dunnett (1964), table III."""
    level = simultaneous_level(comparisons, 0.5, df, 0.95)
    assert t.isf(level / 2, df) == pytest.approx(quantile, abs=0.025)


@pytest.mark.parametrize("correlation, df", [(0.0, 4), (0.3, 8), (0.5, 30)])
def test_intervals_hold_together_with_the_wanted_probability(correlation, df):
    quantile = t.isf(simultaneous_level(4, correlation, df, 0.95) / 2, df)
    shape = np.full((4, 4), correlation) + (1 - correlation) * np.eye(4)
    box = np.full(4, quantile)
    held = multivariate_t.cdf(box, shape=shape, df=df, lower_limit=-box, random_state=0)
    assert 0.9495 < held < 0.953


def test_level_is_between_bonferroni_and_one_comparison():
    levels = [simultaneous_level(27, correlation, 6, 0.95) for correlation in (0, 0.25, 0.5)]
    assert 0.05 / 27 < levels[0] < levels[1] < levels[2] < 0.05
    assert simultaneous_level(1, 0.5, 6, 0.95) == pytest.approx(0.05)


def test_holm_is_that_of_statsmodels():
    p_values = np.random.default_rng(1).random(30) ** 3
    assert holm(list(p_values)) == pytest.approx(list(multipletests(p_values, method="holm")[1]))
    assert holm([]) == []
