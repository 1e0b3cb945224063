"""The first task: what do probes read out of the features of each encoder?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import Pooling, ProbeConfig, TrainedProbeConfig, Weights
from hpc_jepa.distributed import is_main
from hpc_jepa.evaluation.features import FrozenFeatures
from hpc_jepa.evaluation.outcome import Outcome
from hpc_jepa.evaluation.probes import probing
from hpc_jepa.evaluation.probes.probing import FittedProbe
from hpc_jepa.evaluation.record import Candidate, Predictions, Result
from hpc_jepa.evaluation.statistics import accuracy
from hpc_jepa.evaluation.subject import Subject

Probes = dict[tuple[Weights, str], FittedProbe]
"""By weights and name of the probe."""


def measure(subject: Subject, names: Sequence[Weights]) -> Outcome | None:
    """Accuracy of every probe on every encoder. All processes make features; the first returns the outcome."""
    encoders, hashes = subject.encoders(names)
    configs = probe_configs(subject)
    poolings = poolings_of(configs)
    with subject.workplace() as folder:
        train = subject.features("train", encoders, poolings, folder / "train")
        test = subject.features("test", encoders, poolings, folder / "test")
        if not is_main():
            return None
        probes = fit_all(subject, configs, names, train)
        some = test[names[0], poolings[0]]
        predictions: Predictions = {key: some.first_clips(getattr(some, key)) for key in ("labels", "samples")}
        results = []
        for (name, probe), fitted in probes.items():
            named = fitted.predict(test[name, configs[probe].pooling])
            results.append(_result(subject, name, probe, fitted, named, predictions["labels"]))
            predictions[results[-1].key] = named
    return Outcome(results, predictions, hashes)


def probe_configs(subject: Subject) -> dict[str, ProbeConfig]:
    """The probes of the protocol, as this variant of the study trains them."""
    variant = subject.run.config.variant
    return {
        name: config.for_variant(variant) if isinstance(config, TrainedProbeConfig) else config
        for name, config in subject.config.probes.items()
    }


def poolings_of(configs: dict[str, ProbeConfig]) -> list[Pooling]:
    """Each form of features that some probe reads, once."""
    return list(dict.fromkeys(config.pooling for config in configs.values()))


def fit_all(
    subject: Subject,
    configs: dict[str, ProbeConfig],
    names: Sequence[Weights],
    train: dict[tuple[str, Pooling], FrozenFeatures],
) -> Probes:
    """Every probe on the training features of every encoder."""
    fitted: Probes = {}
    for name in names:
        for probe, config in configs.items():
            kept, validation = probing.held_out(train[name, config.pooling], subject.config.validation)
            split = probing.Split(kept, validation, subject.benchmark.classes, subject.device)
            with subject.progress(f"{probe} probe, {name}", probing.work(split, config)) as advance:
                fitted[name, probe] = probing.fit(split, config, subject.config.probe_seeds, advance)
    return fitted


def seeds_of(config: ProbeConfig, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Seeds of the probes of a kind; deterministic ones need none."""
    return seeds if isinstance(config, TrainedProbeConfig) else ()


def _result(
    subject: Subject,
    name: Weights,
    probe: str,
    fitted: FittedProbe,
    named: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> Result:
    config = subject.config.probes[probe]
    right = named == labels
    share = accuracy(right)
    return Result(
        weights=name,
        probe=probe,
        pooling=config.pooling,
        probe_seeds=seeds_of(config, subject.config.probe_seeds),
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
