import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from hpc_jepa.evaluation.stats.accuracy import mean_of_clips
from hpc_jepa.evaluation.stats.blocked import compare_with_reference, mean_score
from hpc_jepa.evaluation.stats.metrics import class_metrics, clip_scores, is_unbalanced, scale_of

SHARES = np.array([0.7, 0.2, 0.1])


def draw(rng, clips, right):
    """Labels of unbalanced classes, and predictions that are right with a probability ``right`` [3] by class."""
    labels = rng.choice(3, clips, p=SHARES)
    predicted = np.where(rng.random((len(right), clips)) < np.array(right)[:, labels], labels, (labels + 1) % 3)
    return predicted, labels


@pytest.mark.parametrize("predicts", [(0, 1, 2, 5), (0,), (4,)])
def test_metrics_equal_those_of_scikit_learn(predicts):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 7], 200, p=[0.6, 0.2, 0.15, 0.05])
    rows = rng.choice(predicts, (3, 200))
    rows[:, :50] = np.where(np.isin(labels[:50], predicts), labels[:50], rows[:, :50])
    found = class_metrics(rows, labels)
    recalls = [recall_score(labels, row, average="macro", labels=np.unique(labels), zero_division=0) for row in rows]
    scores = [f1_score(labels, row, average="macro", zero_division=0) for row in rows]
    assert found.mean_class_accuracy == pytest.approx(np.mean(recalls))
    assert found.macro_f1 == pytest.approx(np.mean(scores))
    assert found.predicted_classes == len(set(rows[0].tolist()))
    assert found.majority == np.bincount(labels).max() / 200
    scores = clip_scores("mean_class_accuracy", rows, labels)
    assert scores.mean() == pytest.approx(found.mean_class_accuracy)
    assert class_metrics(rows[0], labels) == class_metrics(rows[:1], labels)


def test_a_constant_prediction_has_the_accuracy_of_the_majority_but_that_of_one_class():
    labels = np.repeat([0, 1, 2], [90, 6, 4])
    found = class_metrics(np.zeros((1, 100), int), labels)
    assert (found.predicted_classes, found.majority) == (1, 0.9)
    assert found.mean_class_accuracy == pytest.approx(1 / 3)
    assert is_unbalanced(found.majority, 3) and not is_unbalanced(0.4, 3) and not is_unbalanced(None, 3)


def test_of_equal_classes_the_scores_say_the_same_as_accuracy():
    rng, labels = np.random.default_rng(1), np.arange(300) % 3
    predicted = np.where(rng.random((2, 300)) < 0.6, labels, (labels + 1) % 3)
    plain, weighted = (clip_scores(metric, predicted, labels) for metric in ("accuracy", "mean_class_accuracy"))
    scale = scale_of("mean_class_accuracy", labels)
    assert scale.step == pytest.approx(1) and plain.mean() == pytest.approx(weighted.mean())
    first, second = mean_of_clips(plain), mean_of_clips(weighted, np.arange(300), scale)
    assert (second.low, second.high) == pytest.approx((first.low, first.high), abs=0.002)


def test_scores_are_linear_so_that_differences_can_be_taken_clip_by_clip():
    rng = np.random.default_rng(2)
    predicted, labels = draw(rng, 100, [(0.9, 0.5, 0.3), (0.8, 0.6, 0.4)])
    both = clip_scores("mean_class_accuracy", predicted, labels)
    single = [clip_scores("mean_class_accuracy", row, labels) for row in predicted]
    np.testing.assert_allclose(both, np.mean(single, axis=0))


def test_intervals_of_a_metric_and_of_a_difference_cover():
    """600 test sets of 1000 clips with a class of about 100; 2.5 standard errors around 95 %."""
    rng, right = np.random.default_rng(3), [(0.9, 0.6, 0.3), (0.85, 0.6, 0.5)]
    truth = np.mean(right, axis=1)
    covered = np.zeros(2)
    for _ in range(600):
        predicted, labels = draw(rng, 1000, right)
        scale = scale_of("mean_class_accuracy", labels)
        scores = [clip_scores("mean_class_accuracy", row, labels) for row in predicted]
        alone = mean_of_clips(scores[0], None, scale)
        found = compare_with_reference({"a": {0: scores[0]}}, {0: scores[1]}, None, scale)["a"]
        covered += [alone.low <= truth[0] <= alone.high, found.low <= truth[0] - truth[1] <= found.high]
    assert (covered / 600 > 0.928).all() and (covered / 600 < 0.985).all(), covered / 600


def test_a_perfect_probe_is_no_more_certain_than_its_rarest_class_allows():
    labels = np.repeat([0, 1], [990, 10])
    scores, scale = clip_scores("mean_class_accuracy", labels, labels), scale_of("mean_class_accuracy", labels)
    found = mean_of_clips(scores, None, scale)
    assert found.high == 1 and found.low == pytest.approx(
        mean_of_clips(np.ones(round(1000 / scale.step**2))).low, abs=0.01
    )
    assert found.low < 0.92 < mean_of_clips(np.ones(1000)).low


def test_a_class_of_one_clip_counts_like_any_other():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    scores = clip_scores("mean_class_accuracy", predicted, labels)
    assert scores.mean() == pytest.approx((2 / 3 + 1) / 2) and np.isfinite(scores).all()
    estimate = mean_score({0: scores, 1: scores}, None, scale_of("mean_class_accuracy", labels))
    assert 0 <= estimate.low < estimate.value < estimate.high <= 1
