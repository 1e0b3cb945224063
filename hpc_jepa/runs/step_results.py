"""Results of the kept checkpoints of a run under one probe, from the records in ``eval/steps/``."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from hpc_jepa.config.training import BestEvaluated
from hpc_jepa.errors import DataError
from hpc_jepa.runs.evaluations import ResultSummary, read_summary
from hpc_jepa.runs.run_dir import RunDir

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResults:
    """Accuracy of target weights by step, in [0, 1], of a number R². ``validated``: of validation clips, else of the
    test split. ``by_class``: mean class accuracy.
    """

    by_step: dict[int, float]
    validated: bool
    is_r2: bool = False
    by_class: bool = False

    def text(self, step: int) -> str:
        """The result of a step, and of which clips it is."""
        value = self.by_step[step]
        shown = f"R² {value:.2f}" if self.is_r2 else f"{100 * value:.1f} %{' by class' if self.by_class else ''}"
        return f"{shown} {'validation' if self.validated else 'test'}"

    def best(self, count: int) -> list[int]:
        """The steps of the highest results, the best first; of equal ones the latest."""
        return sorted(self.by_step, key=lambda step: (self.by_step[step], step), reverse=True)[:count]


NONE = StepResults({}, validated=False)


def step_results(run: RunDir, best: BestEvaluated) -> StepResults:
    """Results of all evaluated steps: of validation clips if every record has them, else of the test split. Where mean
    class accuracy decides, that of the test split: records have no other.

    Records of another version of the protocol than that of the newest step do not count, damaged ones neither, with a
    warning.
    """
    found: dict[int, tuple[str, ResultSummary]] = {}
    by_class = False
    for step in run.evaluated_steps(best.benchmark, best.protocol):
        path = run.record_file(best.benchmark, best.protocol, step=step)
        try:
            record = read_summary(path)
        except DataError as error:
            _warn(str(error))
            continue
        for result in record.results:
            if (result.weights, result.probe) == ("target", best.probe) and result.value is not None:
                found[step] = (record.protocol_fingerprint, result)
                by_class = record.decides == "mean_class_accuracy"  # of the newest step, which comes last
    if not found:
        return NONE
    current = found[max(found)][0]
    results = {step: result for step, (fingerprint, result) in found.items() if fingerprint == current}
    return _figures(results, by_class)


def _figures(results: dict[int, ResultSummary], by_class: bool) -> StepResults:
    shares = {step: result.mean_class_accuracy for step, result in results.items()}
    if by_class and None not in shares.values():
        known = {step: value for step, value in shares.items() if value is not None}
        return StepResults(known, validated=False, by_class=True)
    is_r2 = any(result.metric == "mae" for result in results.values())
    validations = {step: result.validation for step, result in results.items()}
    if None not in validations.values():
        known = {step: value for step, value in validations.items() if value is not None}
        return StepResults(known, validated=True, is_r2=is_r2)
    return StepResults({step: result.score or 0.0 for step, result in results.items()}, validated=False, is_r2=is_r2)


def kept_as_best(steps: Sequence[int], results: StepResults, best: BestEvaluated) -> set[int]:
    """Of the steps of checkpoints: the best evaluated ones, and those that are still to be evaluated."""
    assert best.every is not None, "see CheckpointConfig.best_evaluated"
    waiting = {step for step in steps if step and step % best.every == 0 and step not in results.by_step}
    present = StepResults({step: results.by_step[step] for step in steps if step in results.by_step}, results.validated)
    return {*waiting, *present.best(best.count)}


@cache
def _warn(message: str) -> None:
    """Say it once: it is looked at after every save."""
    LOG.warning("%s", message)
