"""The attentive probe by its definition."""

import pytest
import torch
from torch import nn

from hpc_jepa.evaluation.probes.attentive import AttentiveProbes


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


@pytest.fixture(scope="session")
def full_probe():
    return FullProbe
