"""Few-shot evaluation: logistic regression on k labels per class, and N-way k-shot episodes.

Draws and episodes are seeded by their index, so all runs see the same ones; the k-shot labels of a draw are a subset of
its (k+1)-shot labels. All numbers of labels have the same classes: those with clips enough for the largest.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hpc_jepa.config.benchmark import FewShotConfig, Pooling, Weights
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.extraction import TokenEncoder
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.evaluation.record import ClassPool, FewShotKind, FewShotResult, TaskResult
from hpc_jepa.evaluation.split_clips import FeatureRequest, FeatureWork
from hpc_jepa.evaluation.stats.accuracy import Estimate
from hpc_jepa.evaluation.stats.blocked import mean_score
from hpc_jepa.evaluation.stats.episodes import Episodes, episode_accuracy
from hpc_jepa.io.random_streams import RandomStream, uniforms


def evaluate_few_shot(
    context: EvaluationContext, encoders: dict[Weights, TokenEncoder]
) -> FeatureWork[TaskResult | None]:
    """Accuracy by number of labels, and of episodes, for every encoder; None on all processes but the first."""
    config = context.config.few_shot
    result = TaskResult()
    with context.scratch_dir() as folder:
        train = yield FeatureRequest("train", encoders, [config.pooling], folder / "train")
        test = yield FeatureRequest("test", encoders, [config.pooling], folder / "test")
        if not is_main():
            return None
        names = read_manifest(context.config.train).classes
        for name in encoders:
            known, queries = (split[name, config.pooling].first_clips() for split in (train, test))
            pools = class_pools(known.labels, queries.labels, context.benchmark.classes, names, config)
            result.facts["pools"] = pools
            own = queries.subset(np.flatnonzero(np.isin(queries.labels, pools["draws"].classes)))
            result.set_clips(own.labels, own.samples, own.clusters)
            with context.progress(f"few-shot draws, {name}", len(config.shots) * config.draws) as advance:
                for shots in config.shots:
                    predicted = predict_draws(known, own, shots, config, advance, pools["draws"].classes)
                    result.add(_of_draws(name, pools["draws"], shots, config.pooling, predicted, own), predicted)
            for shots in config.episode_shots:
                ways = min(config.ways, context.benchmark.classes)
                episodes = score_episodes(queries, ways, shots, config, pools["episodes"].classes)
                found = _of_episodes(name, (ways, shots), config.pooling, episodes, queries)
                result.add(found, episodes.right.sum(axis=1))
    return result


def class_pools(
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    classes: int,
    names: Sequence[str],
    config: FewShotConfig,
) -> dict[FewShotKind, ClassPool]:
    """The classes of the draws and of the episodes, from the labels [n] of both splits; ``names``: by class, if known.

    Draws need the most shots in training clips of a class, episodes their most shots and the queries in test clips.
    Raises DataError if fewer than two classes have them.
    """
    needed: dict[FewShotKind, tuple[NDArray[np.int64], int]] = {"draws": (train, max(config.shots))}
    if config.episode_shots:
        needed["episodes"] = (test, max(config.episode_shots) + config.queries)
    pools: dict[FewShotKind, ClassPool] = {}
    for kind, (labels, clips) in needed.items():
        counts = np.bincount(labels, minlength=classes)
        enough = np.flatnonzero(counts >= clips)
        if kind == "draws" and len(enough) < 2:
            raise DataError(
                f"few_shot: {clips} clips of a class are needed, {len(enough)} of {classes} classes have them; lower "
                "few_shot.shots"
            )
        scarce = {
            names[label] if label < len(names) else str(label): int(counts[label])
            for label in np.flatnonzero(counts < clips).tolist()
        }
        pools[kind] = ClassPool(needed=clips, classes=tuple(enough.tolist()), left_out=scarce)
    return pools


def predict_draws(
    train: FrozenFeatures,
    test: FrozenFeatures,
    shots: int,
    config: FewShotConfig,
    advance: Advance,
    classes: Sequence[int] | None = None,
) -> NDArray[np.int64]:
    """[draws, n]: classes of the test clips by logistic regression on ``shots`` labels of every class in ``classes``,
    None: all.

    Features are standardised with all training clips, which needs no labels. Raises DataError if a class has fewer than
    ``shots`` clips.
    """
    x = train.flat()
    scaler = StandardScaler().fit(x)
    queries = scaler.transform(test.flat())
    pool = np.unique(train.labels) if classes is None else np.array(classes)
    predicted = np.empty((config.draws, len(test.labels)), np.int64)
    for draw in range(config.draws):
        keys = uniforms(0, RandomStream.FEW_SHOT, draw, (len(train.labels),))
        rows = select_per_class(train.labels, keys, pool, shots).ravel()
        regression = LogisticRegression(C=1 / (len(rows) * config.l2), max_iter=1000)
        predicted[draw] = regression.fit(scaler.transform(x[rows]), train.labels[rows]).predict(queries)
        advance()
    return predicted


def score_episodes(
    test: FrozenFeatures, ways: int, shots: int, config: FewShotConfig, classes: Sequence[int] | None = None
) -> Episodes:
    """Episodes of ``ways`` classes out of ``classes`` (None: all with clips enough), each query assigned to the nearest
    class mean.

    Prototypical classification (Snell et al. 2017) by squared Euclidean distance of L2-normalised features to the
    means of ``shots`` clips. Raises DataError if fewer than ``ways`` classes have enough test clips.
    """
    x = test.flat()
    x /= np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)
    needed = shots + config.queries
    known, counts = np.unique(test.labels, return_counts=True)
    eligible = known[counts >= needed] if classes is None else np.array(classes, dtype=np.int64)
    if len(eligible) < ways:
        most = needed if classes is None else max(config.episode_shots) + config.queries
        raise DataError(
            f"few_shot: {ways}-way episodes need {most} test clips per class, {len(eligible)} classes have them; "
            "lower few_shot.queries or few_shot.ways"
        )
    right = np.empty((config.episodes, ways * config.queries), bool)
    drawn = np.empty((config.episodes, ways, needed), np.int64)
    for episode in range(config.episodes):
        chosen = eligible[uniforms(0, RandomStream.EPISODE, episode, (len(eligible),), part=1).argsort()[:ways]]
        keys = uniforms(0, RandomStream.EPISODE, episode, (len(test.labels),))
        drawn[episode] = select_per_class(test.labels, keys, chosen, needed)
        clips = x[drawn[episode]]
        means, queries = clips[:, :shots].mean(axis=1), clips[:, shots:]
        distances = np.square(queries[:, :, None] - means).sum(axis=-1)
        right[episode] = (distances.argmin(axis=-1) == np.arange(ways)[:, None]).ravel()
    supports, queries = (part.reshape(config.episodes, -1) for part in np.split(drawn, [shots], axis=2))
    return Episodes(queries, supports, right)


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


def _of_draws(
    name: Weights,
    pool: ClassPool,
    shots: int,
    pooling: Pooling,
    predicted: NDArray[np.int64],
    queries: FrozenFeatures,
) -> FewShotResult:
    correct = predicted == queries.labels
    mean = mean_score(dict(enumerate(correct.astype(float))), queries.clusters)
    return _result(name, "draws", (len(pool.classes), shots), pooling, len(queries), mean, correct.mean(axis=1))


def _of_episodes(
    name: Weights, ways_shots: tuple[int, int], pooling: Pooling, episodes: Episodes, queries: FrozenFeatures
) -> FewShotResult:
    clusters = np.arange(len(queries)) if queries.clusters is None else queries.clusters
    mean = episode_accuracy(episodes, clusters)
    return _result(name, "episodes", ways_shots, pooling, episodes.right.shape[1], mean, episodes.shares)


def _result(
    name: Weights,
    kind: FewShotKind,
    ways_shots: tuple[int, int],
    pooling: Pooling,
    n: int,
    mean: Estimate,
    scores: NDArray[np.float64],
) -> FewShotResult:
    ways, shots = ways_shots
    interval = {"value": float(scores.mean()), "low": mean.low, "high": mean.high, "n": n, "covers": "draws and clips"}
    draws = {"count": len(scores), "per_draw": tuple(scores.tolist())}
    return FewShotResult(weights=name, kind=kind, ways=ways, shots=shots, pooling=pooling, **interval, **draws)
