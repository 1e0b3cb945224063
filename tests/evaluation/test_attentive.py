import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpc_jepa.config.benchmark import AttentiveProbeConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.attentive import AttentiveProbes, fit, fit_and_predict, updates
from hpc_jepa.evaluation.features import Standardiser

CPU = torch.device("cpu")


class FullProbe(nn.Module):
    """The definition: all tokens attend to all tokens, residual, LayerNorm after the addition, linear."""

    def __init__(self, probes: AttentiveProbes, index: int, width: int, classes: int) -> None:
        super().__init__()
        self.token = nn.Parameter(probes.class_token[index].detach().clone())
        self.attention = nn.MultiheadAttention(width, probes.heads, batch_first=True)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head = nn.Linear(width, classes)
        with torch.no_grad():
            weights = (probes.query_weight, probes.key_weight, probes.value_weight)
            self.attention.in_proj_weight.copy_(torch.cat([weight[index] for weight in weights]))
            key_bias = torch.zeros(width)
            biases = (probes.query_bias[index], key_bias, probes.value_bias[index])
            self.attention.in_proj_bias.copy_(torch.cat(biases))
            self.attention.out_proj.weight.copy_(probes.output_weight[index])
            self.attention.out_proj.bias.copy_(probes.output_bias[index])
            self.norm.weight.copy_(probes.norm_weight[index])
            self.norm.bias.copy_(probes.norm_bias[index])
            self.head.weight.copy_(probes.head_weight[index])
            self.head.bias.copy_(probes.head_bias[index])

    def forward(self, tokens):
        sequence = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1)
        mixed = sequence + self.attention(sequence, sequence, sequence)[0]
        return self.head(self.norm(mixed)[:, 0])


@pytest.fixture
def probes():
    """Three probes of which no parameter is zero or one."""
    torch.manual_seed(0)
    probes = AttentiveProbes(width=32, classes=5, heads=8, seeds=(0, 1, 2))
    for parameter in probes.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return probes


def test_logits_equal_the_full_token_by_token_attention(probes):
    tokens = torch.randn(6, 20, 32)
    with torch.no_grad():
        logits = probes(tokens)
        for index in range(3):
            expected = FullProbe(probes, index, 32, 5)(tokens)
            torch.testing.assert_close(logits[index], expected, rtol=1e-5, atol=1e-5)


def test_a_key_bias_changes_nothing(probes):
    tokens = torch.randn(6, 20, 32)
    full = FullProbe(probes, 0, 32, 5)
    with torch.no_grad():
        full.attention.in_proj_bias[32:64] = torch.randn(32)
        torch.testing.assert_close(probes(tokens)[0], full(tokens), rtol=1e-5, atol=1e-5)


def test_initialisation_is_that_of_the_layers_it_stands_for():
    probes = AttentiveProbes(width=64, classes=10, heads=8, seeds=range(40))
    assert probes.class_token.std().item() == pytest.approx(0.02, rel=0.05)
    xavier = (6 / (64 + 3 * 64)) ** 0.5
    assert probes.query_weight.abs().max().item() == pytest.approx(xavier, rel=1e-3)
    assert probes.head_weight.abs().max().item() == pytest.approx(64**-0.5, rel=1e-3)
    assert not probes.query_bias.any() and not probes.value_bias.any() and not probes.output_bias.any()


def test_training_equals_the_definition_trained_by_plain_adamw(make_features):
    features = make_features(seed=0, clips=64)
    config = AttentiveProbeConfig(kind="attentive", heads=4, updates=12, batch_size=16, lr=1e-3, standardise=False)
    trained = fit(features, Standardiser.identity(32), config, 4, (7,), lambda: None)

    reference = FullProbe(AttentiveProbes(32, 4, 4, (7,)), 0, 32, 4)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0.01)
    tokens, labels = torch.from_numpy(features.tokens), torch.from_numpy(features.labels)
    for epoch in range(3):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(64))
        for rows in order.split(16):
            optimizer.zero_grad()
            functional.cross_entropy(reference(tokens[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(trained(tokens)[0], reference(tokens), rtol=1e-3, atol=1e-4)


def test_seeds_trained_side_by_side_equal_seeds_trained_alone(make_features):
    features = make_features(seed=0, clips=64)
    config = AttentiveProbeConfig(kind="attentive", heads=4, updates=10, batch_size=16)
    standardiser = Standardiser.of(features)
    together = fit(features, standardiser, config, 4, (0, 1, 2), lambda: None)
    tokens = standardiser(features.batch(np.arange(64), CPU))
    for index in range(3):
        alone = fit(features, standardiser, config, 4, (index,), lambda: None)
        with torch.no_grad():
            torch.testing.assert_close(together(tokens)[index], alone(tokens)[0], rtol=1e-4, atol=1e-5)


def test_probes_learn_what_one_token_tells(make_features):
    train, test = make_features(seed=0, clips=400, signal=3.0), make_features(seed=1, clips=100, signal=3.0)
    config = AttentiveProbeConfig(kind="attentive", heads=4, updates=300, batch_size=32)
    predictions = fit_and_predict(train, test, config, 4, (0, 1), CPU, lambda: None)
    assert predictions.shape == (2, 100)
    assert ((predictions == test.labels).mean(axis=1) > 0.8).all()


@pytest.mark.parametrize(("length", "expected"), [({"updates": 7}, 7), ({"epochs": 3}, 9)])
def test_updates_count_batches_including_the_last_small_one(make_features, length, expected):
    config = AttentiveProbeConfig(kind="attentive", heads=4, batch_size=8, **length)
    done = []
    features = make_features(seed=0, clips=20)
    fit(features, Standardiser.identity(32), config, 4, (0,), lambda: done.append(1))
    assert len(done) == updates(config, 20) == expected


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="5 heads needs a width they divide; the encoder has 32"):
        AttentiveProbes(width=32, classes=4, heads=5, seeds=(0,))


def test_a_probe_needs_one_length_of_training():
    for length in ({}, {"updates": 10, "epochs": 1}):
        with pytest.raises(ValueError, match="either updates or epochs"):
            AttentiveProbeConfig(kind="attentive", **length)
