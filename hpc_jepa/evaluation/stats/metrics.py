"""Metrics of probes as mean scores of test clips, so that the statistics of accuracies hold for them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import MetricName
from hpc_jepa.evaluation.stats.accuracy import PROPORTION, Scale

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric. ``factor``: printed value of a score of 1. ``in_unit``: it has the unit of the target."""

    title: str
    factor: float = 100.0
    higher_is_better: bool = True
    in_unit: bool = False


METRICS: dict[MetricName, Metric] = {
    "accuracy": Metric("accuracy"),
    "mean_class_accuracy": Metric("mean class accuracy"),
    "mae": Metric("mean absolute error", 1.0, higher_is_better=False, in_unit=True),
    "r2": Metric("R²", 1.0),
}


UNBALANCED = 1.5
"""Size of the largest class, as a multiple of that of equal classes, above which classes count as unbalanced."""


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of a classifier beside its accuracy.

    mean_class_accuracy: mean over the classes among the labels of the accuracy on their clips. macro_f1: mean over the
    classes among labels and predictions of 2 right / (predicted + labelled). Both are means over the probe seeds.
    predicted_classes: distinct classes that the first seed predicts. majority: share of the largest class among the
    labels.
    """

    mean_class_accuracy: float
    macro_f1: float
    predicted_classes: int
    majority: float


def class_metrics(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> ClassMetrics:
    """Metrics of predictions [S, n] or [n] of classes, as scikit-learn defines them."""
    rows = np.atleast_2d(predicted)
    weights = class_weights(labels)
    return ClassMetrics(
        mean_class_accuracy=float(np.mean((rows == labels) * weights)),
        macro_f1=float(np.mean([_macro_f1(row, labels) for row in rows])),
        predicted_classes=len(np.unique(rows[0])),
        majority=float(np.unique(labels, return_counts=True)[1].max() / labels.size),
    )


def is_unbalanced(majority: float | None, classes: int) -> bool:
    """Whether the largest of the classes has a much larger share of the clips than it has of the classes."""
    return majority is not None and majority * classes > UNBALANCED


def class_weights(labels: NDArray[np.int64]) -> Scores:
    """[n]: weight of each clip, such that all classes among the labels weigh the same and the mean weight is 1."""
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(labels.size / counts.size / counts[numbers])


def clip_scores(metric: MetricName, predicted: NDArray[Any], labels: NDArray[Any]) -> Scores:
    """[n]: score of each clip, mean over the probe seeds; their mean is the metric. predicted: [S, n] or [n].

    A mean over classes is linearised: the score of a clip is the metric plus the weighted deviation of the clip from
    its class (as of one stratum, Cochran 1977, section 5.4), so that the variance of scores gives that of the metric.
    Of numbers, ``labels`` are the targets, and the variance of the targets is taken as known.
    """
    if metric == "mae":
        return np.asarray(np.abs(predicted - labels).reshape(-1, labels.size).mean(axis=0))
    if metric == "r2":
        squares = np.square(predicted - labels).reshape(-1, labels.size).mean(axis=0)
        return np.asarray(1 - squares / labels.var())
    right = np.asarray((np.atleast_2d(predicted) == labels).mean(axis=0))
    return right if metric == "accuracy" else class_mean_scores(right, labels)


def scale_of(metric: MetricName, labels: NDArray[Any]) -> Scale:
    """The scale of the scores of clips with these labels."""
    if metric == "accuracy":
        return PROPORTION
    if metric == "mae":
        return Scale(0.0, math.inf, step=0.0)
    if metric == "r2":
        return Scale(-math.inf, 1.0, step=0.0)
    return Scale(step=float(np.sqrt(np.square(class_weights(labels)).mean())))


def class_mean_scores(right: Scores, labels: NDArray[np.int64]) -> Scores:
    """[n]: linearised scores of the mean class accuracy, from the shares of right answers [n]; see ``clip_scores``."""
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.bincount(numbers, right) / counts
    value = float(means.mean())
    expected = np.where(counts > 1, means, value)[numbers]  # one clip does not show how its class varies
    unbiased = np.sqrt(counts / np.maximum(counts - 1, 1))[numbers]
    deviation = class_weights(labels) * unbiased * (right - expected)
    return np.asarray(value + deviation - deviation.mean())


def _macro_f1(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    classes, numbers = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    truth, answer = numbers[: labels.size], numbers[labels.size :]
    right = np.bincount(truth[truth == answer], minlength=classes.size)
    total = np.bincount(numbers, minlength=classes.size)
    return float((2 * right / total).mean())
