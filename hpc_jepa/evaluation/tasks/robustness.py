"""Robustness: accuracy on corrupted clips of probes trained on clean clips."""

import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import BenchmarkConfig, FeatureProbeConfig, ProtocolName, Weights
from hpc_jepa.config.loading import nearest_or_all
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.corruptions import CORRUPTIONS, ClipCorruption
from hpc_jepa.evaluation.extraction import ExtractedFeatures, TokenEncoder
from hpc_jepa.evaluation.record import RobustnessResult, TaskResult, accuracy_fields
from hpc_jepa.evaluation.split_clips import FeatureRequest, FeatureWork
from hpc_jepa.evaluation.tasks.probe import FittedProbes, fit_all, poolings_of, probe_configs

CLEAN = "clean"


class CorruptionCase(NamedTuple):
    """A corruption at one severity, and the level that severity stands for; severity 0 is the clean test set."""

    corruption: str
    severity: int
    level: float


def evaluate_robustness(
    context: EvaluationContext, encoders: dict[Weights, TokenEncoder]
) -> FeatureWork[TaskResult | None]:
    """Accuracy and consistency at every corruption and severity; None on all processes but the first."""
    config = context.config.robustness
    names = robustness_probes(context.benchmark, context.protocol)
    cases = list(corruption_cases(config.corruptions))
    configs = {name: probe for name, probe in probe_configs(context).items() if name in names}
    poolings = poolings_of(configs)
    samples = evenly_spaced(context.clips.samples("test"), config.clips)
    result = TaskResult()
    with context.scratch_dir() as folder:
        train = yield FeatureRequest("train", encoders, poolings, folder / "train")
        probes = fit_all(context, configs, train) if is_main() else {}
        for case in cases:
            out = folder / f"{case.corruption}-{case.severity}"
            corruption = ClipCorruption(case.corruption, case.level, config.seed) if case.severity else None
            title = f"{case.corruption} {case.severity}" if corruption else "clean test clips"
            test = yield FeatureRequest("test", encoders, poolings, out, title, corruption, samples)
            if is_main():
                _add_results(result, case, probes, configs, test)
                shutil.rmtree(out)
    return result if is_main() else None


def robustness_probes(benchmark: BenchmarkConfig, protocol: ProtocolName) -> tuple[str, ...]:
    """Names of the probes whose robustness is measured.

    Raises InputError, with file and line, if one of them has blocks, none is left, or a corruption is unknown.
    """
    config = benchmark.protocols[protocol]
    path = ("protocols", protocol, "robustness")
    if unknown := [name for name in config.robustness.corruptions if name not in CORRUPTIONS]:
        where = benchmark.locations.prefix((*path, "corruptions"))
        raise InputError(
            f"{where}{'.'.join(path)}.corruptions: unknown name '{unknown[0]}'{nearest_or_all(unknown[0], CORRUPTIONS)}"
        )
    possible = tuple(name for name in config.probes if name not in config.poolers)
    wanted = config.robustness.probes or possible
    if not wanted or set(wanted) - set(possible):
        raise InputError(
            f"{benchmark.name}: robustness of probes with blocks is not measured; name other probes in "
            f"{'.'.join(path)}.probes, or use another protocol"
        )
    return wanted


def corruption_cases(names: Sequence[str]) -> Iterator[CorruptionCase]:
    """The clean test set, then all severities of the named corruptions (no names: of all corruptions).

    Raises InputError for an unknown name.
    """
    yield CorruptionCase(CLEAN, 0, 0.0)
    for name in names or CORRUPTIONS:
        if name not in CORRUPTIONS:
            raise InputError(f"robustness.corruptions: unknown name '{name}'; choose from {', '.join(CORRUPTIONS)}")
        for severity, level in enumerate(CORRUPTIONS[name].levels, start=1):
            yield CorruptionCase(name, severity, level)


def evenly_spaced(samples: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """``count`` of the samples, evenly spaced; None: all."""
    if count is None or count >= len(samples):
        return samples
    return samples[np.linspace(0, len(samples) - 1, count).astype(np.int64)]


def _add_results(
    result: TaskResult,
    case: CorruptionCase,
    probes: FittedProbes,
    configs: dict[str, FeatureProbeConfig],
    test: ExtractedFeatures,
) -> None:
    """Add the results of one case; those of the clean clips must be there."""
    for (name, probe), fitted in probes.items():
        features = test[name, configs[probe].pooling]
        predicted, labels = fitted.predict(features), features.per_sample(features.labels)
        result.set_clips(labels, features.per_sample(features.samples), features.sample_clusters)
        clean = result.predictions.get(f"{name}.{probe}.{CLEAN}.0", predicted)
        robustness = RobustnessResult(
            weights=name,
            probe=probe,
            corruption=case.corruption,
            severity=case.severity,
            level=case.level,
            consistency=float((predicted == clean).mean()),
            **accuracy_fields(predicted == labels, features.sample_clusters),
        )
        result.add(robustness, predicted)
