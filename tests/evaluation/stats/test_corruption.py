"""Corruption errors and retained accuracy: values, undefined cases, and coverage of their intervals."""

import numpy as np
import pytest

from hpc_jepa.evaluation.stats.corruption import corruption_measures

VIDEOS = np.repeat(np.arange(100), 3)
CHANCE = np.array([0.65, 0.6, 0.5, 0.4])
"""On clean clips, and under three corruptions."""


def encoder(rng, seeds=3, chance=CHANCE):
    """[1 + C, S, n]: right answers."""
    ease = np.random.default_rng(1).uniform(-0.1, 0.1, VIDEOS.size)
    luck = rng.normal(0, 0.02, seeds)[None, :, None] + rng.normal(0, 0.01, (len(chance), seeds, 1))
    return (rng.random((len(chance), seeds, VIDEOS.size)) < chance[:, None, None] + luck + ease).astype(float)


def test_values_are_the_ratios_of_the_means():
    rng = np.random.default_rng(0)
    ours, theirs = encoder(rng, chance=CHANCE + 0.1), encoder(rng)
    found = corruption_measures(ours, theirs, VIDEOS)
    mean, other = ours.mean(axis=(1, 2)), theirs.mean(axis=(1, 2))
    assert found.error.value == pytest.approx(np.mean((1 - mean[1:]) / (1 - other[1:])))
    assert found.relative.value == pytest.approx((mean[0] - mean[1:].mean()) / (other[0] - other[1:].mean()))
    kept = [each[1:].mean() / each[0] for each in (mean, other)]
    assert (found.retained.value, found.retained_gain.value) == pytest.approx((kept[0], kept[0] - kept[1]))
    np.testing.assert_allclose(found.lost, mean[0] - mean[1:])
    assert found.error.high < 1


def test_ratios_without_a_divisor_are_undefined():
    rng = np.random.default_rng(0)
    right = np.ones((4, 3, VIDEOS.size))
    found = corruption_measures(encoder(rng), right)
    assert found.error is None and found.relative is None and found.retained_gain is not None
    found = corruption_measures(0 * right, encoder(rng))
    assert found.retained is None and found.retained_gain is None and found.error is not None


def test_intervals_cover():
    rng = np.random.default_rng(5)
    truth = {"error": 1.0, "relative": 1.0, "retained": CHANCE[1:].mean() / CHANCE[0], "retained_gain": 0.0}
    inside = {name: [] for name in truth}
    for _ in range(300):
        found = corruption_measures(encoder(rng), encoder(rng), VIDEOS)
        for name, value in truth.items():
            if (estimate := getattr(found, name)) is not None:
                inside[name].append(estimate.low <= value <= estimate.high)
    assert min(map(len, inside.values())) > 250  # few seeds sometimes leave the loss of the reference open
    assert all(0.92 <= np.mean(each) <= 0.99 for each in inside.values()), {k: np.mean(v) for k, v in inside.items()}
