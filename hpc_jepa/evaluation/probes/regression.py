"""Probes of a number: ridge regression, and trained probes with one output and the squared error.

Hyperparameters are selected by R² on the validation clips.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hpc_jepa.config.benchmark import FeatureProbeConfig, RidgeProbeConfig, TrainedProbeConfig
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.probes import trainer
from hpc_jepa.evaluation.probes.fit import FittedProbe, Predict, ProbeData
from hpc_jepa.evaluation.probes.stack import select_probes
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters
from hpc_jepa.evaluation.progress import Advance

Numbers = NDArray[np.float64]


def fit_regression(data: ProbeData, config: FeatureProbeConfig, seeds: Sequence[int], advance: Advance) -> FittedProbe:
    """Fit all candidates to the targets and keep the one with the highest R² on the validation clips.

    Its predictions are numbers [S, n]. ``advance`` is called as by ``fit_probe``.
    """
    if isinstance(config, RidgeProbeConfig):
        fits = [fit_ridge(data.train, l2) for l2 in config.l2]
        advance()
        scores = [_r2(predict_ridge(fit, data.validation), data.validation) if data.validation else 0.0 for fit in fits]
        best = int(np.argmax(scores))
        predict: Predict = partial(predict_ridge, fits[best])
    elif isinstance(config, TrainedProbeConfig):
        trained = _Trained.fit(data, config, seeds, advance)
        each = [trained.of_candidate(number, len(seeds)) for number in range(len(config.settings))]
        scores = [_r2(one.predict(data.validation), data.validation) if data.validation else 0.0 for one in each]
        best = int(np.argmax(scores))
        predict = each[best].predict
    else:
        raise TypeError(f"{config.kind} predicts classes")  # refused with the configuration
    candidates = tuple(zip(config.settings, scores, strict=True)) if data.validation is not None else ()
    return FittedProbe(predict, config.settings[best], candidates)


def fit_ridge(train: FrozenFeatures, l2: float) -> Pipeline:
    """A fitted scikit-learn regression for matrices [n, N * D].

    Minimises the mean squared error + l2 |w|^2 on standardised features. scikit-learn weights the summed error instead,
    hence alpha = n l2. Without l2 it is least squares of minimum norm.
    """
    regression = Ridge(alpha=len(train) * l2) if l2 else LinearRegression()
    with threadpool_limits(1):
        return make_pipeline(StandardScaler(), regression).fit(train.flat(), train.targets)


def predict_ridge(regression: Pipeline, features: FrozenFeatures) -> Numbers:
    """[1, n]: mean prediction over the clips of each sample."""
    predicted = regression.predict(features.flat()).reshape(features.clips, -1)
    return np.asarray(predicted.mean(axis=0)[None], dtype=np.float64)


class _Trained:
    """A stack of probes with one output in units of the standard deviation of the training targets."""

    def __init__(self, probes: torch.nn.Module, standardiser: Standardiser, mean: float, std: float) -> None:
        self.probes, self.standardiser, self.mean, self.std = probes, standardiser, mean, std

    @classmethod
    def fit(cls, data: ProbeData, config: TrainedProbeConfig, seeds: Sequence[int], advance: Advance) -> "_Trained":
        """All candidates with all seeds in one pass."""
        targets = _targets(data.train)
        mean, std = float(targets.mean()), float(targets.std()) or 1.0
        scaled = torch.from_numpy((targets - mean) / std).float()
        standardiser = Standardiser.of(data.train) if config.standardise else Standardiser.identity(data.train.width)
        standardiser = standardiser.to(data.device)
        settings = [ProbeHyperparameters(s["lr"], s["weight_decay"], seed) for s in config.settings for seed in seeds]
        return cls(
            trainer.train_probes(data.train, standardiser, config, 1, settings, advance, scaled),
            standardiser,
            mean,
            std,
        )

    def of_candidate(self, number: int, seeds: int) -> "_Trained":
        """The probes of one candidate."""
        probes = select_probes(self.probes, range(number * seeds, (number + 1) * seeds))
        return _Trained(probes, self.standardiser, self.mean, self.std)

    def predict(self, features: FrozenFeatures) -> Numbers:
        """[S, n]: predictions in the unit of the targets."""
        scaled = trainer.predict_numbers(self.probes, self.standardiser, features).double().numpy()
        return np.asarray(self.mean + self.std * scaled)


def _targets(features: FrozenFeatures) -> Numbers:
    assert features.targets is not None
    return features.targets


def _r2(predicted: Numbers, features: FrozenFeatures) -> float:
    """R², mean over seeds, against the mean of the targets; 0 if they are all equal."""
    targets = features.per_sample(_targets(features))
    variance = float(targets.var())
    return float(1 - np.square(predicted - targets).mean() / variance) if variance else 0.0
