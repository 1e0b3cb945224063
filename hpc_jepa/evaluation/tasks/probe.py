"""The first task: what do probes read out of the features of each encoder?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import Pooling, ProbeConfig, TrainedProbeConfig, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.outcome import TaskResult
from hpc_jepa.evaluation.probes import fit
from hpc_jepa.evaluation.probes.fit import FittedProbe
from hpc_jepa.evaluation.record import Candidate, Predictions, ProbeResult
from hpc_jepa.evaluation.stats.paired import accuracy

FittedProbes = dict[tuple[Weights, str], FittedProbe]
"""By weights and name of the probe."""


def evaluate_probes(context: EvaluationContext, names: Sequence[Weights]) -> TaskResult | None:
    """Accuracy of every probe on every encoder. All processes make features; the first returns the outcome."""
    encoders, hashes = context.encoders(names)
    configs = probe_configs(context)
    poolings = poolings_of(configs)
    with context.scratch_dir() as folder:
        train = context.features("train", encoders, poolings, folder / "train")
        test = context.features("test", encoders, poolings, folder / "test")
        if not is_main():
            return None
        probes = fit_all(context, configs, names, train)
        some = test[names[0], poolings[0]]
        predictions: Predictions = {key: some.per_sample(getattr(some, key)) for key in ("labels", "samples")}
        results = []
        for (name, probe), fitted in probes.items():
            named = fitted.predict(test[name, configs[probe].pooling])
            results.append(_result(context, name, probe, fitted, named, predictions["labels"]))
            predictions[results[-1].key] = named
    return TaskResult(results, predictions, hashes)


def probe_configs(context: EvaluationContext) -> dict[str, ProbeConfig]:
    """The probes of the protocol, as this variant of the study trains them."""
    variant = context.run.config.variant
    return {
        name: config.for_variant(variant) if isinstance(config, TrainedProbeConfig) else config
        for name, config in context.config.probes.items()
    }


def poolings_of(configs: dict[str, ProbeConfig]) -> list[Pooling]:
    """Each form of features that some probe reads, once."""
    return list(dict.fromkeys(config.pooling for config in configs.values()))


def fit_all(
    context: EvaluationContext,
    configs: dict[str, ProbeConfig],
    names: Sequence[Weights],
    train: dict[tuple[str, Pooling], FrozenFeatures],
) -> FittedProbes:
    """Every probe on the training features of every encoder."""
    fitted: FittedProbes = {}
    for name in names:
        for probe, config in configs.items():
            kept, validation = fit.split_validation(train[name, config.pooling], context.config.validation)
            split = fit.ProbeData(kept, validation, context.benchmark.classes, context.device)
            with context.progress(f"{probe} probe, {name}", fit.work_units(split, config)) as advance:
                fitted[name, probe] = fit.fit_probe(split, config, context.config.probe_seeds, advance)
    return fitted


def seeds_of(config: ProbeConfig, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Seeds of the probes of a kind; deterministic ones need none."""
    return seeds if isinstance(config, TrainedProbeConfig) else ()


def _result(
    context: EvaluationContext,
    name: Weights,
    probe: str,
    fitted: FittedProbe,
    named: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> ProbeResult:
    config = context.config.probes[probe]
    right = named == labels
    share = accuracy(right)
    return ProbeResult(
        weights=name,
        probe=probe,
        pooling=config.pooling,
        probe_seeds=seeds_of(config, context.config.probe_seeds),
        metric="top1",
        value=share.value,
        low=share.low,
        high=share.high,
        n=len(labels),
        per_seed=tuple(right.mean(axis=1).tolist()),
        setting=fitted.setting,
        candidates=tuple(Candidate(setting=setting, validation=score) for setting, score in fitted.candidates),
        predicted_classes=len(np.unique(named[0])),
        majority=float(np.bincount(labels).max() / len(labels)),
    )
