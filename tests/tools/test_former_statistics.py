"""The method of release 0.1, against numbers that its code printed."""

import numpy as np
import pytest
from former_statistics import former_difference


@pytest.fixture
def sides():
    rng = np.random.default_rng(7)
    first = {seed: (rng.random(400) < 0.5 + 0.06 * seed).astype(float) for seed in range(3)}
    second = {seed: (rng.random(400) < 0.4 + 0.04 * seed).astype(float) for seed in range(2)}
    return first, second


def test_several_seeds_are_unpaired(sides):
    found = former_difference(*sides, np.random.default_rng(0))
    assert found.value == pytest.approx(0.14)
    assert (found.low, found.high) == pytest.approx((-0.06628576270454398, 0.3602472731011571), abs=1e-12)
    assert found.p_value == pytest.approx(0.1046)


def test_two_single_runs_are_judged_by_mcnemar(sides):
    found = former_difference(*({0: scores[0]} for scores in sides), np.random.default_rng(0))
    assert (found.value, found.low, found.high) == pytest.approx((0.0675, -0.0025, 0.135))
    assert found.p_value == pytest.approx(0.06640168631276233, abs=1e-12)
