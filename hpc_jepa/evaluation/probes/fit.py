"""Fit a probe of any kind: try all hyperparameters, select on validation clips, return a predictor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from hpc_jepa.config.benchmark import (
    FeatureProbeConfig,
    KNNProbeConfig,
    LogisticProbeConfig,
    RidgeProbeConfig,
    TrainedProbeConfig,
)
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.probes import trainer
from hpc_jepa.evaluation.probes.knn import knn_votes
from hpc_jepa.evaluation.probes.logistic import fit_logistic_regression
from hpc_jepa.evaluation.probes.stack import select_probes
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters
from hpc_jepa.evaluation.progress import Advance

Hyperparameters = dict[str, float]

Predict = Callable[[FrozenFeatures], NDArray[Any]]
"""Features of n samples -> predicted class, or number, per seed [S, n]."""


@dataclass(frozen=True)
class ProbeData:
    """Training features, validation features (None without model selection), number of classes, and device."""

    train: FrozenFeatures
    validation: FrozenFeatures | None
    classes: int
    device: torch.device


@dataclass(frozen=True)
class FittedProbe:
    """A probe with its selected hyperparameters, and the validation accuracy of all candidates."""

    predict: Predict
    setting: Hyperparameters
    candidates: tuple[tuple[Hyperparameters, float], ...]


def split_validation(features: FrozenFeatures, fraction: float) -> tuple[FrozenFeatures, FrozenFeatures | None]:
    """Training and validation features by a fixed stratified split; clips of one source video stay together.

    Raises DataError if there are too few samples or source videos.
    """
    if not fraction:
        return features, None
    train, validation = validation_rows(features.per_sample(features.labels), features.sample_clusters, fraction)
    return features.subset(train), features.subset(validation)


def validation_rows(
    labels: NDArray[np.int64], clusters: NDArray[np.int64] | None, fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the training and of the validation samples, ascending; see :func:`split_validation`."""
    rows = np.arange(len(labels))
    if clusters is not None and len(np.unique(clusters)) < len(clusters):
        held_out = hold_out_clusters(labels, clusters, fraction)
        return rows[~held_out], rows[held_out]
    try:
        train, validation = train_test_split(rows, test_size=fraction, random_state=0, stratify=labels)
    except ValueError as error:
        raise DataError(f"validation: cannot hold out {fraction} of {len(labels)} clips: {error}") from error
    return np.sort(train), np.sort(validation)


def hold_out_clusters(labels: NDArray[np.int64], clusters: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """[n]: whether each sample is held out: of every class whole clusters, in a fixed random order, as many as fit into
    ``fraction`` of its samples, or the smallest one of several if none does.

    A cluster with several classes counts as of the class of its first sample. Clusters that have all samples of a class
    are not held out. Raises DataError if no cluster can be held out.
    """
    _, first, members, sizes = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(first))
    chosen = np.zeros(len(first), dtype=bool)
    for label in np.unique(labels):
        own = order[labels[first[order]] == label]
        left = fraction * sizes[own].sum()
        for cluster in own:
            if sizes[cluster] <= left:
                chosen[cluster], left = True, left - sizes[cluster]
        if not chosen[own].any() and len(own) > 1:
            chosen[own[np.argmin(sizes[own])]] = True
    lost = np.setdiff1d(labels, labels[~chosen[members]])
    chosen[members[np.isin(labels, lost)]] = False
    if not chosen.any():
        raise DataError(
            f"validation: cannot hold out {fraction} of {len(labels)} clips: no class has clips of two source videos"
        )
    held_out: NDArray[np.bool_] = chosen[members]
    return held_out


def fit_probe(data: ProbeData, config: FeatureProbeConfig, seeds: Sequence[int], advance: Advance) -> FittedProbe:
    """Fit all candidates and keep the one with the highest validation accuracy (the first of equals).

    ``advance`` is called ``work_units(data, config)`` times.
    """
    if isinstance(config, TrainedProbeConfig):
        return _fit_trained(data, config, seeds, advance)
    if isinstance(config, RidgeProbeConfig):
        raise TypeError("ridge predicts a number")  # refused with the configuration
    predictors = _fit_logistic(data, config) if isinstance(config, LogisticProbeConfig) else _fit_knn(data, config)
    advance()
    scores = [_validation_accuracy(predict, data.validation) for predict in predictors]
    best = int(np.argmax(scores))
    return FittedProbe(predictors[best], config.settings[best], _candidates(data, config, scores))


def work_units(data: ProbeData, config: FeatureProbeConfig) -> int:
    """Progress units of a fit: optimizer steps of a trained probe, otherwise 1."""
    return trainer.count_updates(config, len(data.train)) if isinstance(config, TrainedProbeConfig) else 1


def _fit_trained(data: ProbeData, config: TrainedProbeConfig, seeds: Sequence[int], advance: Advance) -> FittedProbe:
    """All candidates with all seeds in one pass; the validation accuracy of a candidate is the mean over seeds."""
    standardiser = Standardiser.of(data.train) if config.standardise else Standardiser.identity(data.train.width)
    standardiser = standardiser.to(data.device)
    settings = [ProbeHyperparameters(s["lr"], s["weight_decay"], seed) for s in config.settings for seed in seeds]
    probes = trainer.train_probes(data.train, standardiser, config, data.classes, settings, advance)
    scores = [0.0] * len(config.settings)
    if data.validation is not None:
        predicted = _predict_trained(probes, standardiser, data.validation)
        right = predicted == data.validation.per_sample(data.validation.labels)
        scores = right.reshape(len(scores), -1).mean(axis=1).tolist()
    best = int(np.argmax(scores))
    selected = select_probes(probes, range(best * len(seeds), (best + 1) * len(seeds)))
    predict = partial(_predict_trained, selected, standardiser)
    return FittedProbe(predict, config.settings[best], _candidates(data, config, scores))


def _predict_trained(
    probes: torch.nn.Module, standardiser: Standardiser, features: FrozenFeatures
) -> NDArray[np.int64]:
    classes: NDArray[np.int64] = trainer.predict_probabilities(probes, standardiser, features).argmax(-1).numpy()
    return classes


def _fit_logistic(data: ProbeData, config: LogisticProbeConfig) -> list[Predict]:
    fits = [fit_logistic_regression(data.train, l2, config.max_iterations) for l2 in config.l2]
    return [partial(_predict_logistic, classifier) for classifier in fits]


def _predict_logistic(classifier: Pipeline, features: FrozenFeatures) -> NDArray[np.int64]:
    classes = classifier.classes_
    probabilities = classifier.predict_proba(features.flat()).reshape(features.clips, -1, len(classes))
    return np.asarray(classes[probabilities.mean(axis=0).argmax(axis=-1)], dtype=np.int64)[None]


def _fit_knn(data: ProbeData, config: KNNProbeConfig) -> list[Predict]:
    return [partial(_predict_knn, data, k) for k in config.k]


def _predict_knn(data: ProbeData, k: int, features: FrozenFeatures) -> NDArray[np.int64]:
    votes = [
        knn_votes(data.train, features.batch(rows, data.device).flatten(1), (k,), data.classes)[0]
        for rows in features.chunks()
    ]
    summed = reduce(torch.cat(votes), "(v n) c -> n c", "sum", v=features.clips)
    classes: NDArray[np.int64] = summed.argmax(-1).cpu().numpy()[None]
    return classes


def _validation_accuracy(predict: Predict, features: FrozenFeatures | None) -> float:
    if features is None:
        return 0.0
    return float((predict(features) == features.per_sample(features.labels)).mean())


def _candidates(
    data: ProbeData, config: FeatureProbeConfig, scores: Sequence[float]
) -> tuple[tuple[Hyperparameters, float], ...]:
    return tuple(zip(config.settings, scores, strict=True)) if data.validation is not None else ()
