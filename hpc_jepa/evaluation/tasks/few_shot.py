"""How well do a few labels do? Random draws of k labels for every class, and N-way k-shot episodes.

Draws and episodes are functions of their number alone, so every run is judged with the same ones, and the k labels of a
draw are among those of the same draw with more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hpc_jepa.config.benchmark import FewShotConfig, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.outcome import TaskResult
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.evaluation.record import FewShotResult, Predictions
from hpc_jepa.io.random_streams import RandomStream, uniforms

LEVEL = 0.95


def evaluate_few_shot(context: EvaluationContext, names: Sequence[Weights]) -> TaskResult | None:
    """Curves over the number of labels, and episodes, for every encoder; None on all processes but the first."""
    config = context.config.few_shot
    encoders, hashes = context.encoders(names)
    results: list[FewShotResult] = []
    predictions: Predictions = {}
    with context.scratch_dir() as folder:
        train = context.features("train", encoders, [config.pooling], folder / "train")
        test = context.features("test", encoders, [config.pooling], folder / "test")
        if not is_main():
            return None
        for name in names:
            known, unseen = (
                LabelledFeatures.of(train[name, config.pooling]),
                LabelledFeatures.of(test[name, config.pooling]),
            )
            with context.progress(f"few shots, {name}", len(config.shots) * config.draws) as advance:
                found = {k: predict_draws(known, unseen, k, config, advance) for k in config.shots}
            for shots, named in found.items():
                result = _draw_result(name, named == unseen.labels, shots, context.benchmark.classes, config)
                results.append(result)
                predictions[result.key] = named
            ways = min(config.ways, context.benchmark.classes)
            for shots in config.episode_shots:
                right = score_episodes(unseen, ways, shots, config)
                result = _episode_result(name, right, ways, shots, config)
                results.append(result)
                predictions[result.key] = right
            predictions |= {"labels": unseen.labels, "samples": unseen.samples}
    return TaskResult(results, predictions, hashes)


class LabelledFeatures:
    """Pooled features of the first clip of each sample: x [n, N * D], labels [n], samples [n]."""

    def __init__(self, x: NDArray[np.float32], labels: NDArray[np.int64], samples: NDArray[np.int64]) -> None:
        self.x, self.labels, self.samples = x, labels, samples

    @classmethod
    def of(cls, features: FrozenFeatures) -> "LabelledFeatures":
        """Features of one split."""
        first = features.first_clips()
        return cls(first.flat(), first.labels, first.samples)


def predict_draws(
    train: LabelledFeatures, test: LabelledFeatures, shots: int, config: FewShotConfig, advance: Advance
) -> NDArray[np.int64]:
    """[draws, n]: classes of the test clips by logistic regression on ``shots`` labels of every class.

    Features are standardised with all training clips, whose labels that does not need. Raises DataError where a class
    has fewer clips than that.
    """
    scaler = StandardScaler().fit(train.x)
    unseen = scaler.transform(test.x)
    named = np.empty((config.draws, len(test.labels)), np.int64)
    for draw in range(config.draws):
        keys = uniforms(0, RandomStream.FEW_SHOT, draw, (len(train.labels),))
        rows = select_per_class(train.labels, keys, np.unique(train.labels), shots).ravel()
        regression = LogisticRegression(C=1 / (len(rows) * config.l2), max_iter=1000)
        named[draw] = regression.fit(scaler.transform(train.x[rows]), train.labels[rows]).predict(unseen)
        advance()
    return named


def score_episodes(test: LabelledFeatures, ways: int, shots: int, config: FewShotConfig) -> NDArray[np.int64]:
    """[episodes]: right answers among ``ways * config.queries``, each query given to the nearest class mean.

    Prototypical classification (Snell et al. 2017) by squared Euclidean distance of L2-normalised features to the
    means of ``shots`` clips. Raises DataError where fewer than ``ways`` classes have enough test clips.
    """
    x = test.x / np.linalg.norm(test.x, axis=1, keepdims=True).clip(min=1e-12)
    need = shots + config.queries
    classes, counts = np.unique(test.labels, return_counts=True)
    able = classes[counts >= need]
    if len(able) < ways:
        raise DataError(
            f"episodes of {ways} classes need {need} test clips of each, only {len(able)} classes have them; "
            "lower few_shot.queries or few_shot.ways"
        )
    right = np.empty(config.episodes, np.int64)
    for episode in range(config.episodes):
        chosen = able[uniforms(0, RandomStream.EPISODE, episode, (len(able),), part=1).argsort()[:ways]]
        keys = uniforms(0, RandomStream.EPISODE, episode, (len(test.labels),))
        clips = x[select_per_class(test.labels, keys, chosen, need)]
        means, queries = clips[:, :shots].mean(axis=1), clips[:, shots:]
        distances = np.square(queries[:, :, None] - means).sum(axis=-1)
        right[episode] = (distances.argmin(axis=-1) == np.arange(ways)[:, None]).sum()
    return right


def select_per_class(
    labels: NDArray[np.int64], keys: NDArray[np.float64], classes: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """[classes, count]: rows with the smallest keys of each class. Raises DataError where a class has fewer rows."""
    order = np.lexsort((keys, labels))
    starts = np.searchsorted(labels[order], classes)
    ends = np.searchsorted(labels[order], classes, side="right")
    scarce = np.flatnonzero(ends - starts < count)
    if len(scarce):
        row = scarce[0]
        raise DataError(
            f"class {classes[row]} has {ends[row] - starts[row]} clips, {count} are to be drawn; lower shots"
        )
    return np.asarray(order[starts[:, None] + np.arange(count)], dtype=np.int64)


def _draw_result(
    name: Weights, right: NDArray[np.bool_], shots: int, classes: int, config: FewShotConfig
) -> FewShotResult:
    per_draw = right.mean(axis=1)
    value, low, high = _t_interval(per_draw)
    return FewShotResult(
        weights=name,
        kind="draws",
        ways=classes,
        shots=shots,
        pooling=config.pooling,
        value=value,
        low=low,
        high=high,
        count=len(per_draw),
        n=right.shape[1],
        per_draw=tuple(per_draw.tolist()),
    )


def _episode_result(
    name: Weights, right: NDArray[np.int64], ways: int, shots: int, config: FewShotConfig
) -> FewShotResult:
    per_episode = right / (ways * config.queries)
    value, low, high = _t_interval(per_episode)
    return FewShotResult(
        weights=name,
        kind="episodes",
        ways=ways,
        shots=shots,
        pooling=config.pooling,
        value=value,
        low=low,
        high=high,
        count=len(per_episode),
        n=ways * config.queries,
        per_draw=tuple(per_episode.tolist()),
    )


def _t_interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean with its 95 % t interval, within [0, 1]."""
    mean, error = float(values.mean()), float(stats.sem(values))
    if error == 0:
        return mean, mean, mean
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    return mean, max(float(low), 0.0), min(float(high), 1.0)
