import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import t, ttest_rel
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttest_ind

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.stats.accuracy import accuracy
from hpc_jepa.evaluation.stats.blocked import (
    adjust_family,
    compare_with_reference,
    estimate_contrast,
    mean_score,
)


def study(rng, variants=8, seeds=3, clips=300, spread=0.02, gains=(), videos=None):
    """Scores by variant and seed: variants of one seed share its effect; all share the difficulty of the clips.

    ``videos`` [n]: half of the clips of a video are answered alike by a run.
    """
    ease, block = rng.uniform(0.3, 0.7, clips), rng.normal(0, spread, seeds)
    gain = dict(enumerate(gains))
    share = np.array(
        [[[block[s] + rng.normal(0, spread) + gain.get(v, 0)] for s in range(seeds)] for v in range(variants)]
    )
    noise = rng.random((variants, seeds, clips))
    if videos is not None:
        alike = rng.random(clips) < 0.5
        noise[:, :, alike] = rng.random((variants, seeds, videos.max() + 1))[:, :, videos[alike]]
    right = (noise < ease + share).astype(float)
    return {f"v{v}": {s: right[v, s] for s in range(seeds)} for v in range(variants)}


def split(scores):
    return {name: seeds for name, seeds in scores.items() if name != "v0"}, scores["v0"]


def compare(scores, clusters=None):
    return compare_with_reference(*split(scores), clusters)


def interval(found):
    return found.low, found.high


def test_the_difference_is_recomputed_from_its_definition():
    rng = np.random.default_rng(11)
    videos = np.sort(rng.integers(0, 40, 300))
    scores = study(rng, 12, 4, videos=videos)
    for clusters in (None, videos):
        for name, found in compare(scores, clusters).items():
            variance, df, value = by_hand(scores, name, np.arange(300) if clusters is None else clusters)
            assert found.method == "blocked" and found.clusters == (None if clusters is None else len(set(videos)))
            assert found.value == pytest.approx(value)
            assert found.df == pytest.approx(df, rel=1e-5)
            assert interval(found) == pytest.approx(t.interval(0.95, df, value, np.sqrt(variance)), rel=1e-5)
            assert found.p_value == pytest.approx(2 * t.sf(abs(value) / np.sqrt(variance), df), rel=1e-4)


def by_hand(scores, name, videos):
    """Variance, degrees of freedom and value of one difference, step by step."""
    gains = {v: np.array([scores[v][s] - scores["v0"][s] for s in scores[v]]) for v in scores if v != "v0"}
    own, nu, m = gains[name], len(scores["v0"]) - 1, len(gains)
    seeds, n = own.shape
    between = np.array([gain.mean(axis=1).var(ddof=1) for gain in gains.values()])
    logs = np.log(between) - digamma(nu / 2) + np.log(nu / 2)
    excess = logs.var(ddof=1) - polygamma(1, nu / 2)
    means = np.array([gain.mean(axis=1) for gain in gains.values()])
    share = np.cov(means)[~np.eye(m, dtype=bool)].mean() / between.mean()
    likely = (nu * min(max(share, 0), 1) + 0.5) / (nu + 1)
    shared = min(1, max(0.5 - 0.2 / nu**2 * max(0, 1 - 5 / m), 1.2 * likely)) ** 2
    pooled = nu / (shared + (1 - shared) / m) - nu
    mine = own.mean(axis=1).var(ddof=1)
    if excess <= 0:
        seed, df = between.mean() / seeds, nu + pooled
    else:
        half = brentq(lambda x: polygamma(1, x) - excess, 1e-3, 1e6)
        prior, d0 = np.exp(logs.mean() + digamma(half) - np.log(half)), 2 * half
        seed, df = (d0 * prior + nu * mine) / (d0 + nu) / seeds, nu + d0 * pooled / (d0 + pooled)
    value, ids = own.mean(), np.unique(videos)
    groups = len(ids)
    clip = sum((own.mean(axis=0) - value)[videos == g].sum() ** 2 for g in ids) * groups / (groups - 1) / n**2
    both = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + value
    cross = sum(both[s, videos == g].sum() ** 2 for s in range(seeds) for g in ids)
    cross *= groups / (groups - 1) / nu / seeds / n**2
    if clip <= cross:
        return seed, df, value
    total = seed + clip - cross
    spread = seed**2 / df + clip**2 / (groups - 1) + cross**2 / (nu * (groups - 1))
    return total, total**2 / spread, value


def test_one_comparison_of_many_clips_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    ours, theirs = (
        {s: (rng.random(20000) < share).astype(float) for s, share in enumerate(shares)}
        for shares in ((0.5, 0.6, 0.65), (0.4, 0.55, 0.5))
    )
    found = compare_with_reference({"a": ours}, theirs)["a"]
    expected = ttest_rel([s.mean() for s in ours.values()], [s.mean() for s in theirs.values()])
    assert found.method == "paired" and found.seeds == 3
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.02)
    assert interval(found) == pytest.approx(tuple(expected.confidence_interval()), rel=0.02)


def test_without_a_common_seed_it_is_welchs_test():
    rng = np.random.default_rng(4)
    sides = [
        {first + s: (rng.random(20000) < share).astype(float) for s, share in enumerate(shares)}
        for first, shares in ((0, (0.5, 0.6, 0.65)), (10, (0.4, 0.45)))
    ]
    found = compare_with_reference({"a": sides[0]}, sides[1])["a"]
    means = [[s.mean() for s in side.values()] for side in sides]
    assert found.method == "welch" and found.seeds == 2
    assert found.p_value == pytest.approx(ttest_ind(*means, usevar="unequal")[1], rel=0.05)


def test_a_planted_gain_is_decided_and_one_seed_never_is():
    scores = study(np.random.default_rng(2), 28, 3, gains=[0, 0.3, -0.3])
    found = compare(scores)
    assert found["v1"].decided == "gain" and found["v2"].decided == "loss"
    assert found["v1"].adjusted_p < 1e-2 and found["v1"].simultaneous[0] > 0
    one = compare({name: {0: seeds[0]} if name != "v0" else seeds for name, seeds in scores.items()})
    assert {comparison.method for comparison in one.values()} == {"one_seed"}
    assert not any(comparison.decided for comparison in one.values())
    assert all(np.isnan(comparison.adjusted_p) for comparison in one.values())
    assert one["v1"].p_value < 1e-6 and one["v1"].dropped_seeds == 2


def test_the_shipped_family_of_336_finds_a_difference_of_50_points():
    scores = study(np.random.default_rng(5), 28, 3, gains=[-0.25, *[0.25] * 27])
    cells = {(number, name): found for number in range(13) for name, found in compare(scores).items()}
    assert len(cells) == 351
    assert sum(found.decided == "gain" for found in adjust_family(cells).values()) > 330


def test_unequal_seeds_use_the_common_ones_and_count_the_others():
    scores = study(np.random.default_rng(6), 8, 6)
    scores["v0"] = {s: scores["v0"][s] for s in range(5)}
    scores["v1"] = {s: scores["v1"][s] for s in (1, 2, 5)}
    scores["v2"] = {3: scores["v2"][3]}
    scores["v3"] = {10: scores["v3"][0], 11: scores["v3"][1]}
    found = compare(scores)
    assert [(found[f"v{v}"].seeds, found[f"v{v}"].dropped_seeds, found[f"v{v}"].method) for v in range(1, 5)] == [
        (2, 4, "blocked"),
        (1, 4, "one_seed"),
        (2, 0, "welch"),
        (5, 1, "blocked"),
    ]
    assert found["v1"].value == pytest.approx(
        np.mean([scores["v1"][s].mean() - scores["v0"][s].mean() for s in (1, 2)])
    )


def test_holm_runs_over_the_comparisons_of_several_seeds():
    scores = study(np.random.default_rng(7), 10, 3, gains=[0, 0.1, 0.08, 0.05])
    scores["v9"] = {0: scores["v9"][0]}
    found = compare(scores)
    members = [f"v{v}" for v in range(1, 9)]
    expected = multipletests([found[name].p_value for name in members], method="holm")[1]
    assert [found[name].adjusted_p for name in members] == pytest.approx(list(expected))
    assert np.isnan(found["v9"].adjusted_p) and np.isnan(found["v9"].simultaneous[0])
    for name in members:
        assert found[name].simultaneous[0] < found[name].low < found[name].high < found[name].simultaneous[1]


def test_two_seeds_that_agree_to_the_clip_prove_nothing():
    """The variance between seeds and that of the clips can both be estimated as zero."""
    rng = np.random.default_rng(21)
    theirs = {s: np.roll(np.arange(200) < 100, 100 * s).astype(float) for s in range(2)}
    ours = {s: own.copy() for s, own in theirs.items()}
    for s in range(2):
        ours[s][rng.choice(np.flatnonzero(theirs[s] == 0), 4, replace=False)] = 1
    found = compare_with_reference({"": ours}, theirs)[""]
    assert found.value == pytest.approx(0.02)
    assert found.p_value > 1e-3 and found.low < found.value < found.high


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clips_that_all_runs_answer_alike(value):
    scores = {f"v{v}": {s: np.full(50, value) for s in range(3)} for v in range(5)}
    for found in compare(scores).values():
        assert (found.value, found.p_value, found.decided) == (0, 1, None)
        assert -0.1 < found.low < 0 < found.high < 0.1
    estimate = mean_score(scores["v0"])
    assert estimate.value == value and 0 <= estimate.low < estimate.high <= 1


def test_all_right_against_all_wrong_is_a_gain():
    for variants in (1, 2, 8):
        found = compare_with_reference(
            {f"v{v}": dict.fromkeys(range(2), np.ones(40)) for v in range(variants)},
            dict.fromkeys(range(2), np.zeros(40)),
            np.arange(40) // 5,
        )
        assert all(one.value == 1 and one.decided == "gain" for one in found.values())


def test_a_variant_that_varies_more_than_the_others_keeps_its_own_variance():
    rng = np.random.default_rng(8)
    scores = study(rng, 20, 5, 2000, spread=0.005)
    scores["v3"] = {
        s: (rng.random(2000) < 0.5 + shift).astype(float) for s, shift in enumerate((-0.3, 0.3, 0, 0.2, -0.2))
    }
    found = compare(scores)
    assert found["v3"].method == "paired" and found["v3"].df < 5
    assert found["v4"].method == "blocked" and found["v4"].df > 5
    assert found["v3"].high - found["v3"].low > 5 * (found["v4"].high - found["v4"].low)


def test_swapped_sides_give_the_negated_difference():
    scores = study(np.random.default_rng(9), 2, 4)
    there, back = (compare_with_reference({"": scores[a]}, scores[b])[""] for a, b in (("v0", "v1"), ("v1", "v0")))
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert back.p_value == pytest.approx(there.p_value)


def test_the_order_of_variants_seeds_and_clips_does_not_matter():
    rng = np.random.default_rng(10)
    videos = np.sort(rng.integers(0, 30, 300))
    scores, order = study(rng, 6, 3, videos=videos), rng.permutation(300)
    expected = compare(scores, videos)
    mixed = {name: {s: scores[name][s][order] for s in reversed(scores[name])} for name in sorted(scores, reverse=True)}
    found = compare(mixed, 1000 - 7 * videos[order])
    for name, one in found.items():
        assert one.value == pytest.approx(expected[name].value)
        assert (*interval(one), *one.simultaneous) == pytest.approx(
            (*interval(expected[name]), *expected[name].simultaneous)
        )


def test_what_a_seed_or_a_clip_has_in_common_does_not_matter():
    rng = np.random.default_rng(12)
    scores = study(rng, 6, 3)
    expected = compare(scores)
    block, ease = rng.normal(0, 1, 3), rng.normal(0, 1, 300)
    moved = {name: {s: own + block[s] + ease for s, own in seeds.items()} for name, seeds in scores.items()}
    for name, found in compare(moved).items():
        assert interval(found) == pytest.approx(interval(expected[name]))
        assert found.p_value == pytest.approx(expected[name].p_value)


@pytest.mark.parametrize("seeds, videos", [(2, False), (3, True), (5, False)])
def test_intervals_of_a_null_study_cover_and_rarely_decide(seeds, videos):
    rng, held, wrong = np.random.default_rng(13), [], []
    groups = np.repeat(np.arange(30), 10) if videos else None
    for _ in range(400):
        found = compare(study(rng, 9, seeds, videos=groups), groups).values()
        held.append(np.mean([one.low <= 0 <= one.high for one in found]))
        wrong.append(any(one.decided for one in found))
    assert 0.94 - 3 * np.std(held) / 20 < np.mean(held) < 0.985
    assert np.mean(wrong) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_clips_of_one_video_are_not_independent():
    rng, groups = np.random.default_rng(14), np.repeat(np.arange(40), 10)
    ignored, known = [], []
    for _ in range(400):
        scores = study(rng, 2, 1, 400, spread=0, videos=groups)
        ignored.append(compare(scores)["v1"].p_value < 0.05)
        known.append(compare(scores, groups)["v1"].p_value < 0.05)
    assert np.mean(ignored) > 0.15
    assert 0.02 < np.mean(known) < 0.085


def test_the_interval_of_an_accuracy_covers_with_clips_of_one_video():
    rng, groups = np.random.default_rng(15), np.repeat(np.arange(40), 10)
    ignored, known, seeds = [], [], []
    for _ in range(500):
        scores = study(rng, 1, 3, 400, spread=0, videos=groups)["v0"]
        right = scores[0][None] > 0
        ignored.append(accuracy(right).low <= 0.5 <= accuracy(right).high)
        known.append(accuracy(right, groups).low <= 0.5 <= accuracy(right, groups).high)
        found = mean_score(scores, groups)
        seeds.append(found.low <= 0.5 <= found.high)
    assert np.mean(ignored) < 0.85
    assert 0.92 < np.mean(known) < 0.98
    assert 0.92 < np.mean(seeds) <= 1


def test_a_factorial_effect_is_found_and_has_its_coverage():
    names, weights = (
        [f"v{v}" for v in range(8)],
        dict(zip([f"v{v}" for v in range(8)], [-0.25] * 4 + [0.25] * 4, strict=True)),
    )
    rng, held, found = np.random.default_rng(16), [], []
    for _ in range(300):
        scores = study(rng, 8, 3, gains=[0, 0, 0, 0, 0.1, 0.1, 0.1, 0.1])
        effect = estimate_contrast(scores, weights)
        held.append(effect.low <= 0.1 <= effect.high)
        found.append(effect.decided == "gain")
    assert set(scores) == set(names)
    assert 0.915 < np.mean(held) < 0.985
    assert np.mean(found) > 0.95


def test_a_contrast_of_two_variants_agrees_with_their_difference_on_the_value():
    scores = study(np.random.default_rng(17), 4, 3)
    contrast = estimate_contrast(scores, {"v1": 1, "v0": -1, "v2": 0})
    assert contrast.value == pytest.approx(compare(scores)["v1"].value)
    back = estimate_contrast(scores, {"v1": -1, "v0": 1})
    assert interval(back) == pytest.approx((-contrast.high, -contrast.low))


def test_a_pooled_contrast_has_the_error_of_a_mixed_model_with_random_seeds():
    """Runs without clip noise and with equal spreads: statsmodels' MixedLM by REML, random intercepts of the seeds."""
    rng, names, seeds = np.random.default_rng(3), [f"v{v}" for v in range(6)], range(5)
    block = rng.normal(0, 0.05, len(seeds))
    runs = {name: {s: 0.5 + block[s] + rng.normal(0, 0.02) for s in seeds} for name in names}
    found = estimate_contrast(
        {name: {s: np.full(20_000, share) for s, share in own.items()} for name, own in runs.items()},
        {"v3": 1, "v0": -1},
    )
    frame = pd.DataFrame([(name, s, 100 * share) for name, own in runs.items() for s, share in own.items()])
    model = MixedLM.from_formula("share ~ name", frame.set_axis(["name", "seed", "share"], axis=1), groups="seed").fit()
    assert 100 * found.value == pytest.approx(model.params["name[T.v3]"], abs=1e-4)
    assert found.method == "blocked"
    assert 100 * found.standard_error == pytest.approx(model.bse["name[T.v3]"], rel=0.01)


def test_contrasts_that_mean_nothing_are_refused():
    scores = study(np.random.default_rng(18), 3, 2)
    for weights in ({"v1": 1.0}, {}, {"v1": 0.0}):
        with pytest.raises(InputError):
            estimate_contrast(scores, weights)
    scores["v1"] = {9: scores["v1"][0]}
    with pytest.raises(InputError):
        estimate_contrast(scores, {"v1": 1, "v0": -1})


def test_seeds_that_tie_to_the_last_clip_are_no_proof():
    """Two seeds with the same difference, on other clips: the clips alone would let them vary."""
    rng, n = np.random.default_rng(23), 200
    base = {s: (rng.random(n) < 0.5).astype(float) for s in (0, 1)}
    better = {}
    for s, own in base.items():  # six clips more in both seeds: ten gained, four lost
        better[s] = own.copy()
        better[s][rng.choice(np.flatnonzero(own == 0), 10, replace=False)] = 1
        better[s][rng.choice(np.flatnonzero(own == 1), 4, replace=False)] = 0
    found = compare_with_reference({"v": better}, base)["v"]
    assert found.value == pytest.approx(0.03)
    by_clips = np.sqrt(14 / n**2 / 2)  # standard error of 14 changed clips, over two seeds
    assert 0.5 * by_clips < found.standard_error < 2 * by_clips
    assert 0.01 < found.p_value < 0.9 and found.low < 0 < found.high


def test_scores_of_other_clips_are_refused():
    scores = study(np.random.default_rng(19), 3, 2)
    with pytest.raises(InputError):
        compare(scores, np.arange(299))
    scores["v1"] = {s: own[:200] for s, own in scores["v1"].items()}
    with pytest.raises(InputError):
        compare(scores)


def test_several_probe_seeds_have_one_estimand():
    """Interval and p-value are of the mean over probe seeds: they never contradict each other."""
    rng = np.random.default_rng(20)
    probes = [[(rng.random((3, 200)) < share).mean(axis=0) for _ in range(2)] for share in (0.5, 0.57, 0.62, 0.7)]
    for ours, theirs in itertools.combinations(probes, 2):
        found = compare_with_reference({"": {0: ours[0]}}, {0: theirs[0]})[""]
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
