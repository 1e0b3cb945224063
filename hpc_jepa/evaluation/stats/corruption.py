"""Ratios of accuracies on corrupted clips, with intervals over pretraining seeds and test clips.

Corruption error (Hendrycks & Dietterich 2019): error under a corruption, summed over severities, by that of a
reference. Relative corruption error: the same of what the errors are above those on clean clips; here the ratio of the
means over corruptions, because a corruption that costs the reference nothing has no ratio of its own. Retained
accuracy: accuracy on corrupted clips by that on clean ones.

A ratio is linearised (delta method): the score of a seed and clip is the ratio plus its first-order change by that
clip, so that intervals are those of a mean over seeds and clips (`blocked`), without random draws.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.evaluation.stats.accuracy import Estimate, Scale
from hpc_jepa.evaluation.stats.blocked import mean_score

Scores = NDArray[np.float64]

UNBOUNDED = Scale(-math.inf, math.inf, step=0.0)


@dataclass(frozen=True)
class CorruptionMeasures:
    """``error``, ``relative``: beside the reference, less is better. Not defined where the reference makes no error
    under a corruption, or does not lose accuracy by corruption for sure.

    ``retained``: share of the clean accuracy; ``retained_gain``: minus that of the reference; not defined at a clean
    accuracy of zero. ``ratios`` [C]: corruption error of each corruption, infinite where the reference makes no error.
    ``accuracies`` [1 + C]: on clean clips and under each corruption.
    """

    error: Estimate | None
    relative: Estimate | None
    retained: Estimate | None
    retained_gain: Estimate | None
    ratios: Scores
    accuracies: Scores

    @property
    def lost(self) -> Scores:
        """[C]: accuracy lost by each corruption."""
        return np.asarray(self.accuracies[0] - self.accuracies[1:])


def corruption_measures(
    scores: Scores, reference: Scores, clusters: NDArray[np.int64] | None = None
) -> CorruptionMeasures:
    """Measures of ``scores`` [1 + C, S, n] beside those of a reference on the same seeds and clips.

    Scores are of the clean clips, then under each corruption, mean over severities. ``clusters`` [n]: None if unknown.
    """
    wrong, by_reference = 1 - scores[1:], 1 - reference[1:]
    lost, lost_by_reference = (each[0] - each[1:].mean(axis=0) for each in (scores, reference))
    retained, other = (_ratio(each[1:].mean(axis=0), each[0]) for each in (scores, reference))
    ratios = [_ratio(ours, theirs) for ours, theirs in zip(wrong, by_reference, strict=True)]
    defined = [ratio for ratio in ratios if ratio is not None]
    error = np.mean(defined, axis=0) if len(defined) == len(ratios) else None
    loses = mean_score(dict(enumerate(lost_by_reference)), clusters, UNBOUNDED).low > 0
    relative = _ratio(lost, lost_by_reference) if loses else None
    gain = None if retained is None or other is None else retained - other
    return CorruptionMeasures(
        error=_estimate(error, clusters),
        relative=_estimate(relative, clusters),
        retained=_estimate(retained, clusters),
        retained_gain=_estimate(gain, clusters),
        ratios=np.array([math.inf if ratio is None else ratio.mean() for ratio in ratios]),
        accuracies=scores.mean(axis=(1, 2)),
    )


def _ratio(above: Scores, below: Scores) -> Scores | None:
    """[S, n]: linearised scores of the ratio of the means of ``above`` and ``below`` [S, n]; None if that is zero."""
    divisor = float(below.mean())
    if divisor == 0:
        return None
    value = float(above.mean()) / divisor
    return value + (above - value * below) / divisor


def _estimate(scores: Scores | None, clusters: NDArray[np.int64] | None) -> Estimate | None:
    return None if scores is None else mean_score(dict(enumerate(scores)), clusters, UNBOUNDED)
