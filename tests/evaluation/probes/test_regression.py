"""Probes of a number against scikit-learn and against what is known of made-up features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from hpc_jepa.config.benchmark import RidgeProbeConfig, TrainedProbeConfig
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.probes.fit import ProbeData, split_validation
from hpc_jepa.evaluation.probes.regression import fit_regression, fit_ridge, predict_ridge


def measured(seed, samples=120, clips=1, tokens=1, noise=0.3):
    """Features [clips * samples, tokens, 8]; the target is a linear function of their mean, far from 0 and 1."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(samples, 8)) * np.arange(1, 9)
    targets = 1000 + 20 * mean @ np.random.default_rng(0).normal(size=8) + noise * 20 * rng.normal(size=samples)
    features = (
        mean[:, None]
        + 0.1 * rng.normal(size=(clips, samples, 1, 8))
        + rng.normal(size=(clips, samples, tokens, 8)) * 0.1
    )
    rows = features.reshape(clips * samples, tokens, 8).astype(np.float32)
    repeated = np.tile(np.arange(samples), clips)
    return FrozenFeatures(rows, np.zeros_like(repeated), repeated, 1, clips, repeated // 4, np.tile(targets, clips))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_ridge_minimises_the_documented_loss(l2):
    train, test = measured(1), measured(2)
    scaler = StandardScaler().fit(train.flat())
    reference = Ridge(alpha=l2 * 120) if l2 else LinearRegression()
    reference.fit(scaler.transform(train.flat()), train.targets)
    predicted = predict_ridge(fit_ridge(train, l2), test)
    assert predicted.shape == (1, 120) and predicted.dtype == np.float64
    np.testing.assert_allclose(predicted[0], reference.predict(scaler.transform(test.flat())), rtol=1e-4)
    assert r2_score(test.targets, predicted[0]) > 0.95


def test_the_best_candidate_on_the_validation_clips_is_kept():
    train, validation = split_validation(measured(1), 0.25)
    assert not set(train.clusters) & set(validation.clusters)
    candidates = (1e4, 1e-3, 10.0)
    data = ProbeData(train, validation, 0, torch.device("cpu"))
    found = fit_regression(data, RidgeProbeConfig(kind="ridge", l2=candidates), (0,), lambda: None)
    scores = [r2_score(validation.targets, predict_ridge(fit_ridge(train, l2), validation)[0]) for l2 in candidates]
    assert [score for _, score in found.candidates] == pytest.approx(scores)
    assert found.setting == {"l2": candidates[int(np.argmax(scores))]} != {"l2": 1e4}


def test_predictions_of_several_clips_are_averaged():
    train, test = measured(1), measured(2, clips=3)
    fit = fit_ridge(train, 1e-3)
    predicted = predict_ridge(fit, test)
    each = fit.predict(test.flat()).reshape(3, 120)
    np.testing.assert_allclose(predicted[0], each.mean(axis=0))


@pytest.mark.parametrize(("kind", "pooling", "tokens"), [("linear", "mean", 1), ("attentive", "tokens", 6)])
def test_trained_probes_predict_numbers_of_any_size(kind, pooling, tokens):
    train, validation = split_validation(measured(1, 240, tokens=tokens), 0.25)
    config = TrainedProbeConfig(kind=kind, pooling=pooling, heads=2, lr=(0.03, 1e-9), updates=300, batch_size=32)
    steps = []
    data = ProbeData(train, validation, 0, torch.device("cpu"))
    found = fit_regression(data, config, (0, 1), lambda: steps.append(1))
    test = measured(2, 100, clips=2, tokens=tokens)
    predicted = found.predict(test)
    assert predicted.shape == (2, 100) and len(steps) == 300
    assert all(r2_score(test.targets[:100], row) > 0.9 for row in predicted)
    assert found.setting["lr"] == 0.03
    best, untrained = (score for _, score in found.candidates)
    assert best > 0.9 > 0.5 > untrained
