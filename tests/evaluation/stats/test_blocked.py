import numpy as np
import pytest
from scipy.stats import ttest_rel

from hpc_jepa.evaluation.stats.blocked import compare_with_reference, estimate_contrast


def study(rng, variants=8, seeds=3, clips=300, spread=0.02, gains=()):
    """Scores by variant and seed: variants of one seed share its effect; all share the difficulty of the clips."""
    ease, block = rng.uniform(0.2, 0.8, clips), rng.normal(0, spread, seeds)
    gain = dict(enumerate(gains))
    return {
        f"v{v}": {
            s: (rng.random(clips) < ease + block[s] + rng.normal(0, spread) + gain.get(v, 0)).astype(float)
            for s in range(seeds)
        }
        for v in range(variants)
    }


def test_one_comparison_of_many_clusters_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    ours, theirs = (
        {s: (rng.random(20000) < share).astype(float) for s, share in enumerate(shares)}
        for shares in ((0.5, 0.6, 0.65), (0.4, 0.55, 0.5))
    )
    found = compare_with_reference({"a": ours}, theirs)["a"]
    expected = ttest_rel([s.mean() for s in ours.values()], [s.mean() for s in theirs.values()])
    assert found.method == "paired" and found.seeds == 3
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.02)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), rel=0.02)


def test_a_planted_gain_is_decided_and_one_seed_never_is():
    scores = study(np.random.default_rng(2), 28, 3, gains=[0, 0.3, -0.3])
    reference = scores.pop("v0")
    found = compare_with_reference(scores, reference)
    assert found["v1"].decided == "gain" and found["v2"].decided == "loss"
    single = {name: {0: seeds[0]} for name, seeds in scores.items()}
    one = compare_with_reference(single, reference)
    assert {comparison.method for comparison in one.values()} == {"one_seed"}
    assert not any(comparison.decided for comparison in one.values())
    assert one["v1"].dropped_seeds == 2


def test_a_contrast_is_found():
    scores = study(np.random.default_rng(3), 8, 3, gains=[0, 0.2, 0.2])
    found = estimate_contrast(scores, {"v1": 0.5, "v2": 0.5, "v0": -1})
    assert found.low < 0.2 < found.high and found.p_value < 0.05
