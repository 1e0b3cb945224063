"""The attentive classifier of V-JEPA 2: self-attention blocks, a query that attends to their tokens, a linear layer.

Architecture, names of the parameters and initialisation are those of ``src/models/attentive_pooler.py`` in
facebookresearch/vjepa2, so its probe files load strictly. Positions are not encoded, there is no class token, and the
cross-attention has no output projection.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from hpc_jepa.config.pooler_probe import MLP_RATIO
from hpc_jepa.evaluation.probes.attention_block import check_heads
from hpc_jepa.models.block import MLP

WEIGHT_STD = 0.02


class PoolerClassifier(nn.Module):
    """Tokens [B, N, width] -> logits [B, classes]."""

    def __init__(self, width: int, classes: int, blocks: int, heads: int) -> None:
        """Raises InputError if the number of heads does not divide the width."""
        super().__init__()
        check_heads(width, heads)
        self.pooler = _Pooler(width, blocks, heads)
        self.linear = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.linear(self.pooler(tokens))
        return logits


class _Pooler(nn.Module):
    def __init__(self, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.empty(1, 1, width))
        self.cross_attention_block = _CrossAttentionBlock(width, heads)
        self.blocks = nn.ModuleList(_SelfAttentionBlock(width, heads) for _ in range(blocks - 1))
        nn.init.trunc_normal_(self.query_tokens, std=WEIGHT_STD)
        self.apply(_init_linear)
        self._scale_residuals()

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> [B, width]."""
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = self.cross_attention_block(self.query_tokens.expand(len(x), -1, -1), x)
        return pooled.squeeze(1)

    @torch.no_grad()
    def _scale_residuals(self) -> None:
        """Divide what block i (from 1) adds by sqrt(2 i). The block of cross-attention has the number of the last
        self-attention block, as in the original.
        """
        for number, block in enumerate(self.blocks, start=1):
            block.attn.proj.weight.div_(math.sqrt(2 * number))  # type: ignore[union-attr, operator]
            block.mlp.fc2.weight.div_(math.sqrt(2 * number))  # type: ignore[union-attr, operator]
        self.cross_attention_block.mlp.fc2.weight.div_(math.sqrt(2 * max(len(self.blocks), 1)))


class _SelfAttentionBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class _CrossAttentionBlock(nn.Module):
    """Attention of queries to normed tokens, and an MLP; the queries themselves are not normed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.xattn = _CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, MLP_RATIO * width, width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(x))
        queries = queries + self.mlp(self.norm2(queries))
        return queries


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = rearrange(self.qkv(x), "b n (part h d) -> part b h n d", part=3, h=self.heads)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))  # type: ignore[no-any-return]


class _CrossAttention(nn.Module):
    """Without output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        query = rearrange(self.q(queries), "b n (h d) -> b h n d", h=self.heads)
        key, value = rearrange(self.kv(x), "b n (part h d) -> part b h n d", part=2, h=self.heads)
        return rearrange(scaled_dot_product_attention(query, key, value), "b h n d -> b n (h d)")


def _init_linear(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=WEIGHT_STD)
        nn.init.zeros_(layer.bias)
