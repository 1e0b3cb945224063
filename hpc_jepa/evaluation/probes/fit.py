"""Fit a probe of any kind: try its settings, choose on validation clips, keep what predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from hpc_jepa.config.benchmark import KNNProbeConfig, LogisticProbeConfig, ProbeConfig, TrainedProbeConfig
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.probes import knn, logistic, trainer
from hpc_jepa.evaluation.probes.stack import select_probes
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters
from hpc_jepa.evaluation.progress import Advance

Hyperparameters = dict[str, float]

Predict = Callable[[FrozenFeatures], NDArray[np.int64]]
"""Features of n samples -> the class that each seed's probe names [S, n]."""


@dataclass(frozen=True)
class ProbeData:
    """Training features, those on which settings are chosen (None where there is nothing to choose), and classes."""

    train: FrozenFeatures
    validation: FrozenFeatures | None
    classes: int
    device: torch.device


@dataclass(frozen=True)
class FittedProbe:
    """A probe with the setting that was chosen and the validation accuracy of every setting."""

    predict: Predict
    setting: Hyperparameters
    candidates: tuple[tuple[Hyperparameters, float], ...]


def split_validation(features: FrozenFeatures, share: float) -> tuple[FrozenFeatures, FrozenFeatures | None]:
    """Training and validation features: a fixed stratified draw of samples. Raises DataError for too few samples."""
    if not share:
        return features, None
    labels = features.per_sample(features.labels)
    try:
        train, validation = train_test_split(np.arange(len(labels)), test_size=share, random_state=0, stratify=labels)
    except ValueError as error:
        raise DataError(f"validation: {share} of {len(labels)} clips cannot be held out: {error}") from error
    return features.subset(np.sort(train)), features.subset(np.sort(validation))


def fit_probe(split: ProbeData, config: ProbeConfig, seeds: Sequence[int], advance: Advance) -> FittedProbe:
    """Fit every setting and keep the one with the highest validation accuracy (the first of equals).

    ``advance`` is called ``work(split, config)`` times.
    """
    if isinstance(config, TrainedProbeConfig):
        return _fit_trained(split, config, seeds, advance)
    predicts = _fit_logistic(split, config) if isinstance(config, LogisticProbeConfig) else _fit_knn(split, config)
    advance()
    scores = [_accuracy(predict, split.validation) for predict in predicts]
    best = int(np.argmax(scores))
    return FittedProbe(predicts[best], config.settings[best], _candidates(split, config, scores))


def work_units(split: ProbeData, config: ProbeConfig) -> int:
    """Units of work of a fit."""
    return trainer.count_updates(config, len(split.train)) if isinstance(config, TrainedProbeConfig) else 1


def _fit_trained(split: ProbeData, config: TrainedProbeConfig, seeds: Sequence[int], advance: Advance) -> FittedProbe:
    """All settings with all seeds in one pass; the validation accuracy of a setting is the mean over seeds."""
    standardiser = Standardiser.of(split.train) if config.standardise else Standardiser.identity(split.train.width)
    standardiser = standardiser.to(split.device)
    settings = [ProbeHyperparameters(s["lr"], s["weight_decay"], seed) for s in config.settings for seed in seeds]
    probes = trainer.train_probes(split.train, standardiser, config, split.classes, settings, advance)
    scores = [0.0] * len(config.settings)
    if split.validation is not None:
        named = trainer.predict_probabilities(probes, standardiser, split.validation).argmax(-1).numpy()
        right = named == split.validation.per_sample(split.validation.labels)
        scores = right.reshape(len(scores), -1).mean(axis=1).tolist()
    best = int(np.argmax(scores))
    chosen = select_probes(probes, range(best * len(seeds), (best + 1) * len(seeds)))

    def predict(features: FrozenFeatures) -> NDArray[np.int64]:
        named: NDArray[np.int64] = trainer.predict_probabilities(chosen, standardiser, features).argmax(-1).numpy()
        return named

    return FittedProbe(predict, config.settings[best], _candidates(split, config, scores))


def _fit_logistic(split: ProbeData, config: LogisticProbeConfig) -> list[Predict]:
    def predicting(l2: float) -> Predict:
        classifier = logistic.fit_logistic_regression(split.train, l2, config.max_iterations)

        def predict(features: FrozenFeatures) -> NDArray[np.int64]:
            chances = classifier.predict_proba(features.flat()).reshape(features.clips, -1, len(classifier.classes_))
            return np.asarray(classifier.classes_[chances.mean(axis=0).argmax(axis=-1)], dtype=np.int64)[None]

        return predict

    return [predicting(l2) for l2 in config.l2]


def _fit_knn(split: ProbeData, config: KNNProbeConfig) -> list[Predict]:
    def predicting(k: int) -> Predict:
        def predict(features: FrozenFeatures) -> NDArray[np.int64]:
            counted = [
                knn.knn_votes(split.train, features.batch(rows, split.device).flatten(1), (k,), split.classes)[0]
                for rows in features.chunks()
            ]
            summed = reduce(torch.cat(counted), "(v n) c -> n c", "sum", v=features.clips)
            named: NDArray[np.int64] = summed.argmax(-1).cpu().numpy()[None]
            return named

        return predict

    return [predicting(k) for k in config.k]


def _accuracy(predict: Predict, features: FrozenFeatures | None) -> float:
    if features is None:
        return 0.0
    return float((predict(features) == features.per_sample(features.labels)).mean())


def _candidates(
    split: ProbeData, config: ProbeConfig, scores: Sequence[float]
) -> tuple[tuple[Hyperparameters, float], ...]:
    if split.validation is None:
        return ()
    return tuple(zip(config.settings, scores, strict=True))
