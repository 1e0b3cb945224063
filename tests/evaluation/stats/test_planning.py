"""Seeds that a difference needs: against statsmodels in the special cases, and against simulated comparisons."""

import numpy as np
import pytest
from statsmodels.stats.power import TTestIndPower, TTestPower

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.blocked import compare_with_reference
from hpc_jepa.evaluation.stats.planning import FamilyTest, Spread, estimate_spread, power, seeds_needed

SPREAD = Spread(seeds=0.015, correlation=0.5, clips=1000, clip_error=0.0)


@pytest.mark.parametrize("difference", [0.01, 0.02, 0.03])
@pytest.mark.parametrize("comparisons", [1, 27])
def test_without_errors_of_clips_it_is_the_power_of_a_t_test(difference, comparisons):
    test = FamilyTest(0.05, comparisons)
    for seeds in (2, 3, 8):
        paired = TTestPower().power(difference / 0.015, seeds, test.level)  # 0.015 * sqrt(2 * (1 - 0.5))
        unpaired = TTestIndPower().power(difference / 0.015, seeds, test.level)
        assert power(SPREAD, "paired", difference, seeds, test) == pytest.approx(paired, abs=1e-9)
        assert power(SPREAD, "unpaired", difference, seeds, test) == pytest.approx(unpaired, abs=1e-9)
    exact = TTestPower().solve_power(difference / 0.015, alpha=test.level, power=0.8)
    assert seeds_needed(SPREAD, "paired", difference, test) == np.ceil(exact)


def test_blocks_need_no_more_seeds_than_pairs_and_pairs_than_strangers():
    for difference in (0.02, 0.03, 0.05):
        blocked, paired, unpaired = (
            seeds_needed(SPREAD, design, difference, FamilyTest(0.05, 27))
            for design in ("blocked", "paired", "unpaired")
        )
        assert blocked <= paired <= unpaired


def test_no_number_of_seeds_outdoes_too_few_clips():
    spread = Spread(0.015, 0.5, clips=1000, clip_error=0.01)
    assert seeds_needed(spread, "blocked", 0.02, FamilyTest(0.05, 27)) is None
    assert seeds_needed(spread, "blocked", 0.05, FamilyTest(0.05, 27)) is not None


@pytest.mark.parametrize(("design", "comparisons"), [("paired", 1), ("blocked", 8)])
def test_power_is_that_of_simulated_comparisons(design, comparisons):
    """Scores of real numbers, so that spread and error of the clips are exactly those of the plan."""
    seeds, clips, difference, grids = 4, 200, 0.3, 300
    spread = Spread(0.15, 0.5, clips, clip_error=0.04)
    rng, found = np.random.default_rng(0), 0
    for _ in range(grids):
        own = rng.normal(0, 0.15 * np.sqrt(0.5), (comparisons + 1, seeds, 1))
        gain = rng.normal(0, 0.04 * np.sqrt(clips), (comparisons, 1, clips))
        scores = own[1:] + gain + difference
        variants = {str(v): dict(enumerate(scores[v])) for v in range(comparisons)}
        reference = dict(enumerate(np.repeat(own[0], clips, axis=1)))
        p_value = compare_with_reference(variants, reference)["0"].p_value
        found += p_value <= 0.05 / comparisons
    expected = power(spread, design, difference, seeds, FamilyTest(0.05, comparisons))
    assert 0.3 < expected < 0.97
    assert found / grids == pytest.approx(expected, abs=0.08)


def test_a_pilot_gives_back_the_spread_of_its_scores():
    rng, seeds, clips = np.random.default_rng(1), 200, 400
    common = rng.normal(0, 0.02 * np.sqrt(0.6), (1, seeds, 1))
    own = common + rng.normal(0, 0.02 * np.sqrt(0.4), (4, seeds, 1))
    gain = np.concatenate([np.zeros((1, 1, clips)), rng.normal(0, 0.1, (3, 1, clips))])
    scores = own + gain
    found = estimate_spread({str(v): dict(enumerate(scores[v])) for v in (1, 2, 3)}, dict(enumerate(scores[0])))
    assert found.seeds == pytest.approx(0.02, rel=0.1)
    assert found.correlation == pytest.approx(0.6, abs=0.1)
    assert found.clip_error == pytest.approx(0.1 / np.sqrt(clips), rel=0.1)
    assert found.clips == clips


def test_one_seed_is_no_pilot():
    scores = {0: np.ones(10)}
    with pytest.raises(InputError, match="two seeds"):
        estimate_spread({"a": scores}, scores)
