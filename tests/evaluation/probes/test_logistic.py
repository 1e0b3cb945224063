import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from hpc_jepa.evaluation.probes.logistic import fit_logistic_regression


def minimum_by_hand(x, labels, test, l2):
    """Minimise mean cross-entropy + l2/2 |W|^2 in float64 on standardised features; classes of ``test``."""
    mean, std = x.mean(axis=0), x.std(axis=0)
    x, test = (x - mean) / std, (test - mean) / std
    classes, width = labels.max() + 1, x.shape[1]

    def loss(flat):
        weights, bias = flat[: classes * width].reshape(classes, width), flat[classes * width :]
        logp = log_softmax(x @ weights.T + bias, axis=1)
        error = (np.exp(logp) - np.eye(classes)[labels]) / len(x)
        gradient = np.concatenate([(error.T @ x + l2 * weights).ravel(), error.sum(axis=0)])
        return -logp[np.arange(len(x)), labels].mean() + l2 / 2 * np.square(weights).sum(), gradient

    found = minimize(loss, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    return (test @ found[: classes * width].reshape(classes, width).T + found[classes * width :]).argmax(axis=1)


@pytest.mark.parametrize("pooling", ["mean", "tubelets"])
def test_predictions_minimise_the_documented_loss(make_features, pooled, pooling):
    train, test = make_features(seed=0, clips=200, signal=4.0), make_features(seed=1, clips=100, signal=4.0)
    train, test = pooled(train, pooling), pooled(test, pooling)
    x, unseen = train.flat().astype(np.float64), test.flat().astype(np.float64)
    predictions = fit_logistic_regression(train, 0.05, 1000).predict(test.flat())
    assert predictions.shape == (100,)
    assert (predictions == minimum_by_hand(x, train.labels, unseen, 0.05)).mean() > 0.98
    assert (predictions == test.labels).mean() > 0.4


def test_fitting_is_deterministic(make_features, pooled):
    train = pooled(make_features(seed=0, clips=100), "mean")
    first, second = (fit_logistic_regression(train, 0.01, 1000).predict_proba(train.flat()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
