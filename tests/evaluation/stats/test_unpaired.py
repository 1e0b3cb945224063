import math

import numpy as np
import pytest
from scipy.stats import norm

from hpc_jepa.evaluation.stats.unpaired import CorrectCount, compare_unpaired, minimum_detectable_gain

FIRST, SECOND = CorrectCount(171, 1970), CorrectCount(140, 1970)


def wilson(count: CorrectCount) -> tuple[float, float]:
    """Both roots of (share - p)^2 = z^2 p (1 - p) / n."""
    z2 = norm.ppf(0.975) ** 2
    roots = np.roots([1 + z2 / count.n, -(2 * count.share + z2 / count.n), count.share**2])
    return min(roots), max(roots)


def test_the_interval_of_a_count_solves_wilsons_equation():
    assert FIRST.interval == pytest.approx(wilson(FIRST))


def test_the_interval_of_a_difference_is_newcombes():
    found = compare_unpaired(FIRST, SECOND)
    (l1, u1), (l2, u2) = wilson(FIRST), wilson(SECOND)
    difference = FIRST.share - SECOND.share
    assert found.value == difference
    assert found.low == pytest.approx(difference - math.hypot(FIRST.share - l1, u2 - SECOND.share))
    assert found.high == pytest.approx(difference + math.hypot(u1 - FIRST.share, SECOND.share - l2))


def test_the_p_value_is_that_of_the_score_test():
    pooled = (171 + 140) / (2 * 1970)
    error = math.sqrt(pooled * (1 - pooled) * 2 / 1970 * 3940 / 3939)  # Miettinen & Nurminen's n / (n - 1)
    z = (FIRST.share - SECOND.share) / error
    assert compare_unpaired(FIRST, SECOND).p_value == pytest.approx(2 * norm.sf(z), rel=1e-6)


@pytest.mark.parametrize("right", [0, 40])
def test_equal_extreme_counts_do_not_differ(right):
    found = compare_unpaired(CorrectCount(right, 40), CorrectCount(right, 40))
    assert (found.value, found.p_value) == (0, 1)
    assert found.low < 0 < found.high


def test_the_interval_of_a_difference_has_its_coverage():
    rng = np.random.default_rng(0)
    draws = zip(rng.binomial(1970, 0.08, 2000), rng.binomial(1970, 0.06, 2000), strict=True)
    held = [compare_unpaired(CorrectCount(int(a), 1970), CorrectCount(int(b), 1970)) for a, b in draws]
    assert np.mean([found.low <= 0.02 <= found.high for found in held]) == pytest.approx(0.95, abs=0.01)


def test_the_detectable_gain_has_eighty_percent_power():
    gain, rng = minimum_detectable_gain(0.08, 1970), np.random.default_rng(1)
    first, second = rng.binomial(1970, 0.08 + gain, 2000), rng.binomial(1970, 0.08, 2000)
    p_values = [
        compare_unpaired(CorrectCount(int(a), 1970), CorrectCount(int(b), 1970)).p_value
        for a, b in zip(first, second, strict=True)
    ]
    assert np.mean(np.less(p_values, 0.05)) == pytest.approx(0.8, abs=0.03)


def test_more_tests_raise_the_detectable_gain_and_a_ceiling_gives_nan():
    assert minimum_detectable_gain(0.08, 1970, tests=72) > minimum_detectable_gain(0.08, 1970)
    assert math.isnan(minimum_detectable_gain(0.99, 40))
