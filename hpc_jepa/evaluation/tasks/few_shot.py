"""Few-shot evaluation: logistic regression on k labels per class, and N-way k-shot episodes.

Draws and episodes are seeded by their index, so all runs see the same ones; the k-shot labels of a draw are a subset of
its (k+1)-shot labels.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hpc_jepa.config.benchmark import FewShotConfig, Pooling, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.extraction import TokenEncoder
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.evaluation.record import FewShotResult, TaskResult
from hpc_jepa.evaluation.stats.accuracy import CONFIDENCE_LEVEL
from hpc_jepa.io.random_streams import RandomStream, uniforms


def evaluate_few_shot(context: EvaluationContext, encoders: dict[Weights, TokenEncoder]) -> TaskResult | None:
    """Accuracy by number of labels, and of episodes, for every encoder; None on all processes but the first."""
    config, classes = context.config.few_shot, context.benchmark.classes
    result = TaskResult()
    with context.scratch_dir() as folder:
        train = context.features("train", encoders, [config.pooling], folder / "train")
        test = context.features("test", encoders, [config.pooling], folder / "test")
        if not is_main():
            return None
        for name in encoders:
            known, queries = (split[name, config.pooling].first_clips() for split in (train, test))
            result.set_clips(queries.labels, queries.samples, queries.clusters)
            with context.progress(f"few-shot draws, {name}", len(config.shots) * config.draws) as advance:
                draws = {shots: predict_draws(known, queries, shots, config, advance) for shots in config.shots}
            for shots, predicted in draws.items():
                scores = (predicted == queries.labels).mean(axis=1)
                result.add(_result(name, "draws", (classes, shots), config.pooling, len(queries), scores), predicted)
            ways = min(config.ways, classes)
            for shots in config.episode_shots:
                right, n = score_episodes(queries, ways, shots, config), ways * config.queries
                result.add(_result(name, "episodes", (ways, shots), config.pooling, n, right / n), right)
    return result


def predict_draws(
    train: FrozenFeatures, test: FrozenFeatures, shots: int, config: FewShotConfig, advance: Advance
) -> NDArray[np.int64]:
    """[draws, n]: classes of the test clips by logistic regression on ``shots`` labels of every class.

    Features are standardised with all training clips, which needs no labels. Raises DataError if a class has fewer than
    ``shots`` clips.
    """
    x = train.flat()
    scaler = StandardScaler().fit(x)
    queries = scaler.transform(test.flat())
    predicted = np.empty((config.draws, len(test.labels)), np.int64)
    for draw in range(config.draws):
        keys = uniforms(0, RandomStream.FEW_SHOT, draw, (len(train.labels),))
        rows = select_per_class(train.labels, keys, np.unique(train.labels), shots).ravel()
        regression = LogisticRegression(C=1 / (len(rows) * config.l2), max_iter=1000)
        predicted[draw] = regression.fit(scaler.transform(x[rows]), train.labels[rows]).predict(queries)
        advance()
    return predicted


def score_episodes(test: FrozenFeatures, ways: int, shots: int, config: FewShotConfig) -> NDArray[np.int64]:
    """[episodes]: correct answers among ``ways * config.queries``, each query assigned to the nearest class mean.

    Prototypical classification (Snell et al. 2017) by squared Euclidean distance of L2-normalised features to the
    means of ``shots`` clips. Raises DataError if fewer than ``ways`` classes have enough test clips.
    """
    x = test.flat()
    x /= np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)
    needed = shots + config.queries
    classes, counts = np.unique(test.labels, return_counts=True)
    eligible = classes[counts >= needed]
    if len(eligible) < ways:
        raise DataError(
            f"few_shot: {ways}-way episodes need {needed} test clips per class, {len(eligible)} classes have them; "
            "lower few_shot.queries or few_shot.ways"
        )
    right = np.empty(config.episodes, np.int64)
    for episode in range(config.episodes):
        chosen = eligible[uniforms(0, RandomStream.EPISODE, episode, (len(eligible),), part=1).argsort()[:ways]]
        keys = uniforms(0, RandomStream.EPISODE, episode, (len(test.labels),))
        clips = x[select_per_class(test.labels, keys, chosen, needed)]
        means, queries = clips[:, :shots].mean(axis=1), clips[:, shots:]
        distances = np.square(queries[:, :, None] - means).sum(axis=-1)
        right[episode] = (distances.argmin(axis=-1) == np.arange(ways)[:, None]).sum()
    return right


def select_per_class(
    labels: NDArray[np.int64], keys: NDArray[np.float64], classes: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """[classes, count]: rows with the smallest keys of each class. Raises DataError if a class has fewer rows."""
    order = np.lexsort((keys, labels))
    starts = np.searchsorted(labels[order], classes)
    ends = np.searchsorted(labels[order], classes, side="right")
    too_small = np.flatnonzero(ends - starts < count)
    if len(too_small):
        row = too_small[0]
        raise DataError(
            f"few_shot: class {classes[row]} has {ends[row] - starts[row]} clips, {count} are needed; lower the shots"
        )
    return np.asarray(order[starts[:, None] + np.arange(count)], dtype=np.int64)


def _result(
    name: Weights,
    kind: Literal["draws", "episodes"],
    ways_shots: tuple[int, int],
    pooling: Pooling,
    n: int,
    scores: NDArray[np.float64],
) -> FewShotResult:
    """Mean of the scores with its 95 % t interval, clipped to [0, 1]."""
    value, error = float(scores.mean()), float(stats.sem(scores))
    low, high = stats.t.interval(CONFIDENCE_LEVEL, len(scores) - 1, loc=value, scale=error) if error else (value, value)
    ways, shots = ways_shots
    interval = {"value": value, "low": max(float(low), 0.0), "high": min(float(high), 1.0), "n": n}
    draws = {"count": len(scores), "per_draw": tuple(scores.tolist())}
    return FewShotResult(weights=name, kind=kind, ways=ways, shots=shots, pooling=pooling, **interval, **draws)
