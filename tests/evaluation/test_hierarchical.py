import numpy as np
import pytest
from scipy.stats import norm, t

from hpc_jepa.evaluation.stats import hierarchical
from hpc_jepa.evaluation.stats.hierarchical import estimate_difference, estimate_mean, seed_std


def runs(rng, seeds, spread, clips=500, gain=0.0, ease=None):
    """Correct answers [seeds, clips] of runs whose accuracy varies by ``spread``, on clips of varying difficulty."""
    ease = rng.normal(0, 1, clips) if ease is None else ease
    share = 1 / (1 + np.exp(0.4 - ease)) + gain + rng.normal(0, spread, seeds)[:, None]
    return (rng.random((seeds, clips)) < share.clip(0, 1)).astype(float)


@pytest.fixture
def fewer_resamples(monkeypatch):
    """Fewer bootstrap samples: a simulation averages over its own draws."""
    monkeypatch.setattr(hierarchical, "RESAMPLES", 999)


@pytest.mark.parametrize("seeds, spread", [(1, 0.0), (3, 0.03)])
def test_the_interval_of_a_difference_has_its_coverage(fewer_resamples, seeds, spread):
    rng, held = np.random.default_rng(3), []
    for draw in range(2000):
        ease = rng.normal(0, 1, 500)
        first, second = (runs(rng, seeds, spread, ease=ease) for _ in range(2))
        found = estimate_difference(first, second, seed=draw)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


def test_without_variation_between_seeds_the_interval_is_conservative(fewer_resamples):
    rng, held = np.random.default_rng(4), []
    for draw in range(500):
        ease = rng.normal(0, 1, 500)
        found = estimate_difference(runs(rng, 3, 0, ease=ease), runs(rng, 3, 0, ease=ease), seed=draw)
        held.append(found.low <= 0 <= found.high)
    assert 0.94 <= np.mean(held) <= 0.995


def test_with_one_seed_it_is_the_interval_over_clips_alone():
    rng = np.random.default_rng(5)
    first, second = runs(rng, 1, 0, 2000), runs(rng, 1, 0, 2000)
    found, error = estimate_difference(first, second), (first - second).std() / np.sqrt(2000)
    assert found.value == (first - second).mean()
    assert (found.high - found.low) / 2 == pytest.approx(norm.ppf(0.975) * error, rel=0.05)


def test_with_large_variation_between_seeds_the_interval_of_a_mean_is_students_t():
    shares = np.array([0.2, 0.5, 0.8])
    scores = np.tile(shares[:, None], 4000)  # every clip is right in this share of the probe seeds
    found = estimate_mean(scores)
    low, high = t.interval(0.95, 2, loc=0.5, scale=shares.std(ddof=1) / np.sqrt(3))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))


def test_seed_std_excludes_errors_on_the_clips():
    rng = np.random.default_rng(6)
    assert seed_std(runs(rng, 200, 0.05, 1000)) == pytest.approx(0.05, abs=0.012)
    assert seed_std(runs(rng, 200, 0.0, 1000)) < 0.008


def test_the_p_value_is_below_five_percent_if_the_interval_excludes_zero():
    rng = np.random.default_rng(7)
    ease = rng.normal(0, 1, 500)
    second = runs(rng, 3, 0.01, ease=ease)
    for gain in np.linspace(0, 0.2, 11):
        found = estimate_difference(runs(rng, 3, 0.01, gain=gain, ease=ease), second)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(8)
    first, second = runs(rng, 3, 0.02), runs(rng, 2, 0.02)
    assert estimate_difference(first, second) == estimate_difference(first, second)
    assert estimate_difference(first, second) != estimate_difference(first, second, seed=1)
