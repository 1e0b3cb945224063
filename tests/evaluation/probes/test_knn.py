"""The kNN probe against scikit-learn, from features to the selected k."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from hpc_jepa.config.benchmark import KNNProbeConfig
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.probes.fit import ProbeData, fit_probe, split_validation

KS = (1, 5, 15, 61)


def clustered(seed, clips, noise=1.6):
    """Features [clips, 1, 16] around one direction per class, of very different lengths."""
    rng, labels = np.random.default_rng(seed), np.arange(clips) % 3
    directions = np.random.default_rng(0).normal(size=(3, 16))
    features = (directions[labels] + noise * rng.normal(size=(clips, 16))) * rng.uniform(0.1, 10, (clips, 1))
    return FrozenFeatures(features[:, None].astype(np.float32), labels, np.arange(clips), tubelets=1)


def reference(train, test, k):
    classifier = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train.flat(), train.labels)
    votes = classifier.predict_proba(test.flat())
    return votes.argmax(axis=1)


@pytest.mark.parametrize("seed", [1, 2])
def test_k_is_selected_on_the_validation_clips_as_with_scikit_learn(seed):
    features, test = clustered(seed, 300), clustered(seed + 10, 200)
    train, validation = split_validation(features, 0.3)
    data = ProbeData(train, validation, 3, torch.device("cpu"))
    found = fit_probe(data, KNNProbeConfig(kind="knn", k=KS), (0,), lambda: None)
    scores = [float((reference(train, validation, k) == validation.labels).mean()) for k in KS]
    assert [score for _, score in found.candidates] == pytest.approx(scores)
    assert len(set(scores)) > 1
    best = KS[int(np.argmax(scores))]
    assert found.setting == {"k": best}
    np.testing.assert_array_equal(found.predict(test), reference(train, test, best)[None])


def test_more_neighbours_than_training_clips_are_all_of_them():
    train, test = clustered(1, 30), clustered(2, 20)
    data = ProbeData(train, None, 3, torch.device("cpu"))
    few, all_clips = (
        fit_probe(data, KNNProbeConfig(kind="knn", k=(k,)), (0,), lambda: None).predict(test) for k in (500, 30)
    )
    np.testing.assert_array_equal(few, all_clips)
