"""Probe task: accuracy of every probe of the protocol on the features of every encoder."""

from typing import Any

from numpy.typing import NDArray

from hpc_jepa.config.benchmark import FeatureProbeConfig, Pooling, TrainedProbeConfig, Weights
from hpc_jepa.config.pooler_probe import PoolerProbeConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.extraction import ExtractedFeatures, TokenEncoder
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.probes.fit import FittedProbe, ProbeData, fit_probe, split_validation, work_units
from hpc_jepa.evaluation.probes.regression import fit_regression
from hpc_jepa.evaluation.record import Candidate, ProbeResult, TaskResult, class_fields, error_fields
from hpc_jepa.evaluation.split_clips import FeatureRequest, FeatureWork
from hpc_jepa.evaluation.tasks.pooler_probe import evaluate_poolers

FittedProbes = dict[tuple[Weights, str], FittedProbe]
"""By weights and name of the probe."""


def evaluate_probes(
    context: EvaluationContext, encoders: dict[Weights, TokenEncoder]
) -> FeatureWork[TaskResult | None]:
    """Accuracy of every probe on every encoder. All processes extract features; the first returns the result."""
    configs, result = probe_configs(context), TaskResult()
    evaluate_poolers(context, encoders, result)
    if configs:
        yield from _evaluate_on_features(context, encoders, configs, result)
    order = [f"{name}.{probe}" for name in encoders for probe in context.config.probes]
    result.results.sort(key=lambda each: order.index(each.key))
    return result if is_main() else None


def _evaluate_on_features(
    context: EvaluationContext,
    encoders: dict[Weights, TokenEncoder],
    configs: dict[str, FeatureProbeConfig],
    result: TaskResult,
) -> FeatureWork[None]:
    """Add the results of the probes on stored features, on the first process."""
    poolings = poolings_of(configs)
    with context.scratch_dir() as folder:
        train = yield FeatureRequest("train", encoders, poolings, folder / "train")
        test = yield FeatureRequest("test", encoders, poolings, folder / "test")
        if not is_main():
            return
        for (name, probe), fitted in fit_all(context, configs, train).items():
            features = test[name, configs[probe].pooling]
            predicted = fitted.predict(features)
            samples = features.per_sample(features.samples)
            result.set_clips(features.sample_answers, samples, features.sample_clusters)
            result.add(_result(context, name, probe, fitted, predicted, features), predicted)


def probe_configs(context: EvaluationContext) -> dict[str, FeatureProbeConfig]:
    """The probes of the protocol on stored features, with the number of epochs for the run's variant."""
    variant = context.run.config.variant
    return {
        name: config.for_variant(variant) if isinstance(config, TrainedProbeConfig) else config
        for name, config in context.config.probes.items()
        if not isinstance(config, PoolerProbeConfig)
    }


def poolings_of(configs: dict[str, FeatureProbeConfig]) -> list[Pooling]:
    """The distinct poolings that the probes use."""
    return list(dict.fromkeys(config.pooling for config in configs.values()))


def fit_all(
    context: EvaluationContext, configs: dict[str, FeatureProbeConfig], train: ExtractedFeatures
) -> FittedProbes:
    """Fit every probe on the training features of every encoder."""
    fitted: FittedProbes = {}
    for name in dict.fromkeys(name for name, _ in train):
        for probe, config in configs.items():
            features, validation = split_validation(train[name, config.pooling], context.config.validation)
            data = ProbeData(features, validation, context.benchmark.classes, context.device)
            with context.progress(f"{probe} probe, {name}", work_units(data, config)) as advance:
                fit = fit_probe if context.benchmark.target is None else fit_regression
                fitted[name, probe] = fit(data, config, context.config.probe_seeds, advance)
    return fitted


def _result(
    context: EvaluationContext,
    name: Weights,
    probe: str,
    fitted: FittedProbe,
    predicted: NDArray[Any],
    features: FrozenFeatures,
) -> ProbeResult:
    config, answers = context.config.probes[probe], features.sample_answers
    measured = error_fields if context.benchmark.target else class_fields
    return ProbeResult(
        weights=name,
        probe=probe,
        pooling=config.pooling,
        probe_seeds=context.config.probe_seeds if isinstance(config, TrainedProbeConfig) else (),
        setting=fitted.setting,
        candidates=tuple(Candidate(setting=setting, validation=score) for setting, score in fitted.candidates),
        **measured(predicted, answers, features.sample_clusters),
    )
