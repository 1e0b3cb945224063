"""The variance of draws of labels in intervals, and its coverage with known truth."""

import numpy as np
import pytest

from hpc_jepa.evaluation.stats.blocked import compare_with_reference, estimate_contrast, mean_score
from hpc_jepa.evaluation.stats.draws import CountedScores

VIDEOS = np.repeat(np.arange(60), 3)


def few_shot(rng, variants=2, seeds=3, draws=8, luck=0.04, gain=0.0):
    """Right answers of each variant; ``luck``: what a draw does to a variant."""
    ease = rng.uniform(-0.2, 0.2, VIDEOS.size)
    found = []
    for variant in range(variants):
        share = 0.5 + gain * variant + rng.normal(0, 0.02, seeds)[:, None, None]
        share = share + rng.normal(0, luck, draws)[None, :, None] + ease
        right = rng.random((seeds, draws, VIDEOS.size)) < share
        found.append(CountedScores({seed: right[seed].astype(np.uint8) for seed in range(seeds)}))
    return found


def known_draws(scores):
    return {seed: scores[seed] for seed in scores}


def test_scores_are_means_over_draws():
    counts = np.array([[1, 0, 2], [0, 0, 2]], np.uint8)
    scores = CountedScores({7: counts}, whole=2)
    assert list(scores) == [7] and scores.draws == 2
    np.testing.assert_allclose(scores[7], [0.25, 0, 1])
    np.testing.assert_allclose(scores.of_draws(7), counts / 2)


def test_one_draw_changes_nothing():
    rng = np.random.default_rng(0)
    ours, theirs = few_shot(rng, draws=1)
    found = compare_with_reference({"a": ours}, theirs, VIDEOS)
    assert found == compare_with_reference({"a": known_draws(ours)}, known_draws(theirs), VIDEOS)


def test_a_contrast_of_two_is_their_comparison():
    ours, theirs = few_shot(np.random.default_rng(1))
    found = compare_with_reference({"a": ours}, theirs, VIDEOS)["a"]
    contrast = estimate_contrast({"a": ours, "b": theirs}, {"a": 1, "b": -1}, VIDEOS)
    assert (contrast.low, contrast.high) == pytest.approx((found.low, found.high))


def test_draws_that_differ_widen_the_interval_of_a_mean():
    scores, _ = few_shot(np.random.default_rng(2), luck=0.1)
    wide, narrow = mean_score(scores, VIDEOS), mean_score(known_draws(scores), VIDEOS)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 1.05 * (narrow.high - narrow.low)


@pytest.mark.parametrize("luck", [0.0, 0.04])
def test_intervals_cover_and_the_error_is_that_of_the_level(luck):
    rng, covered, known = np.random.default_rng(3), [], []
    for _ in range(300):
        ours, theirs = few_shot(rng, luck=luck)
        found = compare_with_reference({"a": ours}, theirs, VIDEOS)["a"]
        plain = compare_with_reference({"a": known_draws(ours)}, known_draws(theirs), VIDEOS)["a"]
        covered.append(found.low <= 0 <= found.high)
        known.append(plain.low <= 0 <= plain.high)
    assert 0.92 <= np.mean(covered) <= 0.995
    assert luck == 0 or np.mean(known) < np.mean(covered) - 0.02
