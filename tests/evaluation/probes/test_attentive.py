import pytest
import torch
from torch import nn

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.probes.attentive import AttentiveProbes
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape


def shape(width, classes, heads):
    return ProbeShape(width, classes, tokens=20, tubelets=4, heads=heads)


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
    probes = AttentiveProbes(shape(32, 5, 8), seeds=(0, 1, 2))
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
    probes = AttentiveProbes(shape(64, 10, 8), seeds=range(40))
    assert probes.class_token.std().item() == pytest.approx(0.02, rel=0.05)
    xavier = (6 / (64 + 3 * 64)) ** 0.5
    assert probes.query_weight.abs().max().item() == pytest.approx(xavier, rel=1e-3)
    assert probes.head_weight.abs().max().item() == pytest.approx(64**-0.5, rel=1e-3)
    assert not probes.query_bias.any() and not probes.value_bias.any() and not probes.output_bias.any()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match=r"5.*32"):
        AttentiveProbes(shape(32, 4, 5), seeds=(0,))
