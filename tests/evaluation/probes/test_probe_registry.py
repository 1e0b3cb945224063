"""A probe is registered in its own module, and a wrong kind or pooling is refused with its file and line."""

import pytest
import torch
from torch import nn

from hpc_jepa.config.benchmark import BenchmarkConfig, TrainedProbeConfig
from hpc_jepa.config.loading import read_config
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.probes import probe_registry
from hpc_jepa.evaluation.probes.probe_registry import build_probes, probe_kinds, register_probe, validate_probes

BENCHMARK = """name: tiny
title: Tiny
classes: 4
protocols:
  standard:
    train: train
    test: test
    clip: {}
    probes:
      mine:
        kind: KIND
        pooling: POOLING
        updates: 3
"""


@pytest.fixture
def benchmark(tmp_path):
    def read(kind="linear", pooling="mean") -> BenchmarkConfig:
        path = tmp_path / "tiny.yaml"
        path.write_text(BENCHMARK.replace("KIND", kind).replace("POOLING", pooling))
        return read_config(BenchmarkConfig, [path])

    return read


@pytest.fixture
def largest_token(monkeypatch):
    """A probe of its own, registered for one test."""
    monkeypatch.setattr(probe_registry, "_registered", dict(probe_kinds()))
    monkeypatch.setattr(probe_registry, "probe_kinds", lambda: probe_registry._registered)

    @register_probe("largest_token", "tokens", "tubelets")
    class LargestToken(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.head = nn.Linear(shape.width, shape.classes)

        def forward(self, tokens):
            return self.head(tokens.amax(dim=1))

    return LargestToken


def test_a_registered_probe_is_built_once_per_seed(largest_token, benchmark, make_features):
    validate_probes(benchmark("largest_token", "tokens"), "standard")
    features = make_features(seed=0, clips=6)
    config = TrainedProbeConfig(kind="largest_token", pooling="tokens", updates=1)
    probes = build_probes(config, features, 4, seeds=(0, 1, 0))
    logits = probes(torch.from_numpy(features.tokens))
    assert logits.shape == (3, 6, 4)
    assert torch.equal(logits[0], logits[2]) and not torch.equal(logits[0], logits[1])


def test_two_probes_of_one_name_are_refused(largest_token):
    with pytest.raises(ValueError, match="largest_token"):
        register_probe("largest_token", "mean")(nn.Module)


@pytest.mark.parametrize(
    ("kind", "pooling", "line", "named"),
    [
        ("linaer", "mean", 11, r"kind.*linaer.*linear"),
        ("nearest", "mean", 11, "kind"),
        ("linear", "tokens", 12, r"pooling.*mean or tubelets"),
        ("spatial_router", "mean", 12, r"pooling.*tokens"),
    ],
)
def test_a_wrong_kind_or_pooling_is_named_with_its_line(benchmark, kind, pooling, line, named):
    with pytest.raises(InputError, match=rf"tiny\.yaml:{line}: protocols\.standard\.probes\.mine\.{named}"):
        validate_probes(benchmark(kind, pooling), "standard")


def test_an_unknown_key_of_a_probe_is_named_with_its_line(benchmark, tmp_path):
    path = tmp_path / "tiny.yaml"
    benchmark()
    path.write_text(path.read_text().replace("updates: 3", "updtes: 3"))
    with pytest.raises(InputError, match=r"tiny\.yaml:13: protocols\.standard\.probes\.mine\.updtes.*updates"):
        read_config(BenchmarkConfig, [path])
