"""How do probes that were trained on clean clips do on damaged ones?"""

import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import ProbeConfig, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.corruptions import CORRUPTIONS, ClipCorruption
from hpc_jepa.evaluation.extraction import ExtractedFeatures
from hpc_jepa.evaluation.outcome import TaskResult
from hpc_jepa.evaluation.record import Predictions, RobustnessRecord, RobustnessResult
from hpc_jepa.evaluation.stats.paired import accuracy
from hpc_jepa.evaluation.tasks.probe import FittedProbes, fit_all, poolings_of, probe_configs

CLEAN = "clean"


class CorruptionCase(NamedTuple):
    """A corruption at a severity, and what that means; severity 0 is the clean test set."""

    corruption: str
    severity: int
    level: float


def evaluate_robustness(context: EvaluationContext, names: Sequence[Weights]) -> TaskResult | None:
    """Accuracy and consistency under every corruption and severity; None on all processes but the first."""
    config = context.config.robustness
    wanted = list(corruption_cases(config.corruptions))
    encoders, hashes = context.encoders(names)
    configs = {name: probe for name, probe in probe_configs(context).items() if name in (config.probes or (name,))}
    poolings = poolings_of(configs)
    samples = evenly_spaced(context.samples("test"), config.clips)
    results: list[RobustnessResult] = []
    predictions: Predictions = {}
    with context.scratch_dir() as folder:
        train = context.features("train", encoders, poolings, folder / "train")
        probes = fit_all(context, configs, names, train) if is_main() else {}
        for case in wanted:
            place = folder / f"{case.corruption}-{case.severity}"
            damage = ClipCorruption(case.corruption, case.level, config.seed) if case.severity else None
            title = f"{case.corruption} {case.severity}" if damage else "clean test clips"
            found = context.features("test", encoders, poolings, place, title=title, corruption=damage, only=samples)
            if is_main():
                results += _case_results(case, probes, configs, found, predictions)
                shutil.rmtree(place)
    return TaskResult(results, predictions, hashes) if is_main() else None


def corruption_cases(names: Sequence[str]) -> Iterator[CorruptionCase]:
    """The clean test set, then all severities of the named corruptions (none named: all of them).

    Raises InputError for an unknown name.
    """
    yield CorruptionCase(CLEAN, 0, 0.0)
    for name in names or CORRUPTIONS:
        if name not in CORRUPTIONS:
            raise InputError(f"robustness.corruptions: {name} is none of {', '.join(CORRUPTIONS)}")
        for severity, level in enumerate(CORRUPTIONS[name].levels, start=1):
            yield CorruptionCase(name, severity, level)


def evenly_spaced(samples: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """``count`` of the samples, spread over all of them; None: all."""
    if count is None or count >= len(samples):
        return samples
    return samples[np.linspace(0, len(samples) - 1, count).astype(np.int64)]


def corruption_errors(
    record: RobustnessRecord, weights: Weights, probe: str, baseline: RobustnessRecord, baseline_weights: Weights
) -> dict[str, float]:
    """Corruption error relative to the baseline (Hendrycks & Dietterich 2019): errors summed over severities, of one
    over the other; 1 is as good as the baseline, less is better.

    Raises DataError where the two were not measured on the same clips and corruptions.
    """
    for key in ("benchmark", "protocol", "comparable_fingerprint"):
        if getattr(record, key) != getattr(baseline, key):
            raise DataError(f"robustness of {key} {getattr(record, key)} and {getattr(baseline, key)} does not compare")
    if record.data["test"] != baseline.data["test"]:
        raise DataError(
            f"robustness on test data {record.data['test'][:12]} and {baseline.data['test'][:12]}: no comparison"
        )
    ours, theirs = _errors(record, weights, probe), _errors(baseline, baseline_weights, probe)
    if ours.keys() != theirs.keys():
        raise DataError(f"{weights} and {baseline_weights}, {probe} probe: not measured under the same corruptions")
    return {name: ours[name] / max(theirs[name], 1e-12) for name in ours}


def mean_corruption_error(
    record: RobustnessRecord, weights: Weights, probe: str, baseline: RobustnessRecord, baseline_weights: Weights
) -> float:
    """Mean of the corruption errors; see ``corruption_errors``."""
    return float(np.mean(list(corruption_errors(record, weights, probe, baseline, baseline_weights).values())))


def _errors(record: RobustnessRecord, weights: Weights, probe: str) -> dict[str, float]:
    """Sum of the errors over severities, by corruption."""
    errors: dict[str, float] = {}
    for result in record.results:
        if (result.weights, result.probe) == (weights, probe) and result.corruption != CLEAN:
            errors[result.corruption] = errors.get(result.corruption, 0.0) + 1 - result.value
    if not errors:
        raise DataError(f"{record.benchmark}: no robustness of {weights} under the {probe} probe")
    return errors


def _case_results(
    case: CorruptionCase,
    probes: FittedProbes,
    configs: dict[str, ProbeConfig],
    found: ExtractedFeatures,
    predictions: Predictions,
) -> Iterator[RobustnessResult]:
    """Results of one case; its predictions are added to ``predictions``, which hold those of the clean clips."""
    for (name, probe), fitted in probes.items():
        features = found[name, configs[probe].pooling]
        named, labels = fitted.predict(features), features.per_sample(features.labels)
        predictions |= {"labels": labels, "samples": features.per_sample(features.samples)}
        predictions[f"{name}.{probe}.{case.corruption}.{case.severity}"] = named
        right = named == labels
        share = accuracy(right)
        yield RobustnessResult(
            weights=name,
            probe=probe,
            corruption=case.corruption,
            severity=case.severity,
            level=case.level,
            value=share.value,
            low=share.low,
            high=share.high,
            consistency=float((named == predictions[f"{name}.{probe}.{CLEAN}.0"]).mean()),
            n=len(labels),
            per_seed=tuple(right.mean(axis=1).tolist()),
        )
