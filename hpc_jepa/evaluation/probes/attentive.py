"""Attentive probes: a class token attends to all tokens of a clip, then a linear layer classifies it.

The module is LayerNorm(z + MultiheadAttention(z, [z; tokens])) -> Linear with a learned class token z. Only the class
token is a query, so the key projection is folded into it and the value projection is applied after pooling: the same
function without projecting every token. The key bias adds a constant to all scores of a head, which softmax ignores, so
it is omitted.
"""

import math
from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional

from hpc_jepa.evaluation.probes.attention_block import check_heads, class_token
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape, register_probe

NORM_EPS = 1e-5


@register_probe("attentive", "tokens", "tubelets", "mean", stacked=True)
class AttentiveProbes(nn.Module):
    """S independent probes with stacked parameters [S, ...], one per seed of the initialisation."""

    class_token: Tensor
    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    value_weight: Tensor
    value_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor

    def __init__(self, shape: ProbeShape, seeds: Sequence[int]) -> None:
        """Default initialisation of torch's attention and linear layers, class token from N(0, 0.02^2).

        Raises InputError if the number of heads does not divide the width.
        """
        super().__init__()
        check_heads(shape.width, shape.heads)
        self.heads = shape.heads
        probes = [_initial(shape, seed) for seed in seeds]
        for name in probes[0]:
            self.register_parameter(name, nn.Parameter(torch.stack([probe[name] for probe in probes])))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, D] -> logits [S, B, classes]."""
        value = einsum(self._pool(tokens), self._per_head(self.value_weight), "s b h d, s h k d -> s b h k")
        value = rearrange(value, "s b h k -> s b (h k)") + self.value_bias.unsqueeze(1)
        residual = self.class_token.unsqueeze(1) + _linear(value, self.output_weight, self.output_bias)
        normed = functional.layer_norm(residual, residual.shape[-1:], eps=NORM_EPS)
        normed = normed * self.norm_weight.unsqueeze(1) + self.norm_bias.unsqueeze(1)
        return _linear(normed, self.head_weight, self.head_bias)

    def _pool(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [S, B, H, D]: attention-weighted mean of the class token and all raw tokens."""
        folded = self._folded_query()
        own_score = einsum(self.class_token, folded, "s d, s h d -> s h").reshape(1, -1, 1)
        scores = rearrange(folded, "s h d -> (s h) d") @ tokens.transpose(1, 2)
        attention = torch.cat([own_score.expand(len(tokens), -1, -1), scores], dim=-1).softmax(dim=-1)
        pooled = rearrange(attention[..., 1:] @ tokens, "b (s h) d -> s b h d", h=self.heads)
        own = rearrange(attention[..., 0], "b (s h) -> s b h 1", h=self.heads)
        return pooled + own * rearrange(self.class_token, "s d -> s 1 1 d")

    def _folded_query(self) -> Tensor:
        """[S, H, D]: query of each head in the space of raw tokens, W_k^T (W_q z + b_q) / sqrt(D / H)."""
        query = _linear(self.class_token.unsqueeze(1), self.query_weight, self.query_bias)
        per_head = rearrange(query, "s 1 (h k) -> s h k", h=self.heads)
        folded = einsum(per_head, self._per_head(self.key_weight), "s h k, s h k d -> s h d")
        return folded / math.sqrt(per_head.shape[-1])

    def _per_head(self, weight: Tensor) -> Tensor:
        """[S, D, D] -> [S, H, D/H, D]."""
        return rearrange(weight, "s (h k) d -> s h k d", h=self.heads)


def _initial(shape: ProbeShape, seed: int) -> dict[str, Tensor]:
    width, heads = shape.width, shape.heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        token = class_token(width)
        attention, norm, head = (
            nn.MultiheadAttention(width, heads),
            nn.LayerNorm(width),
            nn.Linear(width, shape.classes),
        )
    query, key, value = attention.in_proj_weight.detach().chunk(3)
    query_bias, _, value_bias = attention.in_proj_bias.detach().chunk(3)
    return {
        "class_token": token.detach(),
        "query_weight": query,
        "query_bias": query_bias,
        "key_weight": key,
        "value_weight": value,
        "value_bias": value_bias,
        "output_weight": attention.out_proj.weight.detach(),
        "output_bias": attention.out_proj.bias.detach(),
        "norm_weight": norm.weight.detach(),
        "norm_bias": norm.bias.detach(),
        "head_weight": head.weight.detach(),
        "head_bias": head.bias.detach(),
    }


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[S, B, i] with stacked weight [S, o, i] and bias [S, o] -> [S, B, o]."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
