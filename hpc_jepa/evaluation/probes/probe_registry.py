"""Registry of trained probes: a probe that a module of this package registers is found; no list to maintain."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import torch
from torch import nn

import hpc_jepa.evaluation.probes as package
from hpc_jepa.config.benchmark import BenchmarkConfig, Pooling, ProtocolName, TrainedProbeConfig
from hpc_jepa.config.loading import did_you_mean
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.probes.stack import StackedModule

Probe = TypeVar("Probe", bound=type[nn.Module])


@dataclass(frozen=True)
class ProbeShape:
    """Sizes of a probe for features [B, tokens, width]. tokens is a multiple of tubelets unless the pooling is mean."""

    width: int
    classes: int
    tokens: int
    tubelets: int
    heads: int


@dataclass(frozen=True)
class ProbeKind:
    """Poolings that a kind of probe accepts, and a function that builds one probe per seed, stacked."""

    poolings: tuple[Pooling, ...]
    build: Callable[[ProbeShape, Sequence[int]], nn.Module]


_registered: dict[str, ProbeKind] = {}


def register_probe(name: str, *poolings: Pooling, stacked: bool = False) -> Callable[[Probe], Probe]:
    """Register an ``nn.Module`` as ``kind: name``, for features of these poolings.

    It is constructed as ``Probe(shape: ProbeShape)`` and maps tokens [B, N, D] to logits [B, classes]. Its operations
    must work under ``torch.func.vmap``, which trains many of them side by side. With ``stacked`` the module does that
    itself: ``Probe(shape, seeds)``, logits [S, B, classes].
    """

    def register(probe: Probe) -> Probe:
        if name in _registered:
            raise ValueError(f"two probes are registered as '{name}'")
        _registered[name] = ProbeKind(poolings, probe if stacked else partial(_stack, probe))
        return probe

    return register


@cache
def probe_kinds() -> Mapping[str, ProbeKind]:
    """All registered kinds by name, after importing the modules of this package."""
    for info in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{info.name}")
    return _registered


def validate_probes(benchmark: BenchmarkConfig, protocol: ProtocolName) -> None:
    """Raise InputError, with file and line, if a probe of a protocol has an unknown kind or an unsuitable pooling."""
    for name, probe in benchmark.protocols[protocol].probes.items():
        if not isinstance(probe, TrainedProbeConfig):
            continue
        kind = probe_kinds().get(probe.kind)
        if kind is None:
            known = ["logistic", "ridge", "knn", *probe_kinds()]
            key, message = "kind", f"unknown probe '{probe.kind}'{did_you_mean(probe.kind, known)}"
        elif probe.pooling not in kind.poolings:
            key, message = "pooling", f"{probe.kind} needs {' or '.join(kind.poolings)}, not {probe.pooling}"
        else:
            continue
        path = ("protocols", protocol, "probes", name, key)
        raise InputError(f"{benchmark.locations.prefix(path)}{'.'.join(path)}: {message}")


def build_probes(config: TrainedProbeConfig, features: FrozenFeatures, classes: int, seeds: Sequence[int]) -> nn.Module:
    """One probe per seed: [B, N, D] -> logits [S, B, classes]. Raises InputError if the width does not suit it."""
    shape = ProbeShape(features.width, classes, features.tokens.shape[1], features.tubelets, config.heads)
    return probe_kinds()[config.kind].build(shape, seeds)


def _stack(probe: type[nn.Module], shape: ProbeShape, seeds: Sequence[int]) -> nn.Module:
    modules = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules.append(probe(shape))
    return StackedModule(modules)
