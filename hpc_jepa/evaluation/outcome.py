"""What a task hands to the record: results of all named weights, and what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_jepa.config.benchmark import Weights
from hpc_jepa.evaluation.record import BaseResult, Predictions


@dataclass(frozen=True)
class TaskResult:
    """Results in the order of the table, predictions by the key of each result, hashes of encoders from elsewhere."""

    results: Sequence[BaseResult]
    predictions: Predictions
    encoders: dict[Weights, str]
