import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp
from sklearn.metrics import mean_absolute_error, r2_score

from hpc_jepa.evaluation.stats.blocked import compare_with_reference, mean_score
from hpc_jepa.evaluation.stats.metrics import METRICS, clip_scores, scale_of
from hpc_jepa.evaluation.stats.regression import measure_errors


def draw(rng, clips=300, noise=(1.0, 1.5), unit=1.0):
    targets = unit * rng.normal(50, 3, clips)
    return targets + unit * rng.normal(0, 1, (len(noise), clips)) * np.array(noise)[:, None], targets


def test_errors_equal_those_of_scikit_learn():
    predicted, targets = draw(np.random.default_rng(0))
    found = measure_errors(predicted, targets)
    assert found.mae == pytest.approx(np.mean([mean_absolute_error(targets, row) for row in predicted]))
    assert found.r2 == pytest.approx(np.mean([r2_score(targets, row) for row in predicted]))
    assert found.constant == pytest.approx(min(mean_absolute_error(targets, np.full(300, c)) for c in targets))
    interval = ttest_1samp(np.abs(predicted - targets).mean(axis=0), 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert clip_scores("r2", predicted, targets).mean() == pytest.approx(found.r2)


def test_the_bootstrap_interval_is_that_of_scipy():
    predicted, targets = draw(np.random.default_rng(1), noise=(1.0,))
    found = measure_errors(predicted, targets)
    reference = bootstrap(
        (targets, predicted[0]), r2_score, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=5
    ).confidence_interval
    assert (found.r2_low, found.r2_high) == pytest.approx((reference.low, reference.high), abs=0.004)
    assert found == measure_errors(predicted, targets)


def test_clips_of_one_source_video_count_once():
    predicted, targets = draw(np.random.default_rng(2), clips=100)
    once = measure_errors(predicted, targets, np.arange(100))
    repeated = measure_errors(np.repeat(predicted, 5, axis=1), np.repeat(targets, 5), np.repeat(np.arange(100), 5))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert (repeated.r2_low, repeated.r2_high) == pytest.approx((once.r2_low, once.r2_high), abs=1e-9)
    alone = measure_errors(np.repeat(predicted, 5, axis=1), np.repeat(targets, 5))
    assert alone.high - alone.low < 0.6 * (once.high - once.low)


@pytest.mark.parametrize("name", ["mae", "r2"])
def test_statistics_do_not_depend_on_the_unit(name):
    found = []
    for unit in (1e-6, 1.0, 1e6):
        rng = np.random.default_rng(3)
        targets = unit * rng.normal(50, 3, 200)
        noise = dict(zip("abcd", (1.0, 1.1, 1.2, 1.6), strict=True))
        scores = {}
        for variant, spread in noise.items():
            wrong = [unit * spread * (1 + 0.05 * rng.normal()) * rng.normal(size=200) for _ in range(3)]
            scores[variant] = {seed: clip_scores(name, targets + wrong[seed], targets) for seed in range(3)}
        scale = scale_of(name, targets)
        reference = scores.pop("a")
        compared = compare_with_reference(scores, reference, None, scale)
        factor = unit if METRICS[name].in_unit else 1.0
        found.append([(c.value / factor, c.low / factor, c.p_value, c.adjusted_p) for c in compared.values()])
        mean = mean_score(scores["b"], None, scale)
        assert mean.low < mean.value < mean.high
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[1], rtol=1e-5)


def test_equal_predictions_are_no_difference():
    predicted, targets = draw(np.random.default_rng(4))
    scores = {seed: clip_scores("mae", predicted, targets) for seed in range(3)}
    for found in compare_with_reference(dict.fromkeys("abc", scores), scores, None, scale_of("mae", targets)).values():
        assert (found.value, found.p_value, found.decided) == (0, 1, None)


def test_intervals_of_the_error_and_of_a_difference_cover():
    """400 test sets; 2.5 standard errors around 95 %."""
    rng, covered = np.random.default_rng(5), np.zeros(2)
    truth = np.sqrt(2 / np.pi) * np.array([1.0, 1.5])
    for _ in range(400):
        predicted, targets = draw(rng, clips=100)
        scale = scale_of("mae", targets)
        scores = [clip_scores("mae", row, targets) for row in predicted]
        alone = measure_errors(predicted[:1], targets)
        found = compare_with_reference({"a": {0: scores[0]}}, {0: scores[1]}, None, scale)["a"]
        covered += [alone.low <= truth[0] <= alone.high, found.low <= truth[0] - truth[1] <= found.high]
    assert (covered / 400 > 0.92).all() and (covered / 400 < 0.98).all(), covered / 400
