"""Multi-head self-attention with torch's parameters and initialisation, in a form that torch.func can stack."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from hpc_jepa.errors import InputError

CLASS_TOKEN_STD = 0.02


class PostNormAttention(nn.Module):
    """LayerNorm(x + MultiheadAttention(x, x, x)), over the second axis."""

    def __init__(self, width: int, heads: int) -> None:
        """Raises InputError where heads does not divide width."""
        super().__init__()
        check_heads(width, heads)
        initial = nn.MultiheadAttention(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv.weight, self.qkv.bias = initial.in_proj_weight, initial.in_proj_bias
        self.proj = initial.out_proj
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        query, key, value = rearrange(self.qkv(x), "b n (part h k) -> part b h n k", part=3, h=self.heads)
        # Written out: sequences are short, and torch.func has no rule for the fused kernel on a CPU.
        mixed = (query @ key.mT / math.sqrt(key.shape[-1])).softmax(dim=-1) @ value
        normed: Tensor = self.norm(x + self.proj(rearrange(mixed, "b h n k -> b n (h k)")))
        return normed


def check_heads(width: int, heads: int) -> None:
    """Raise InputError unless heads share the width evenly."""
    if width % heads:
        raise InputError(f"an attentive probe of {heads} heads needs a width they divide; the encoder has {width}")


def class_token(width: int) -> nn.Parameter:
    """A learned token from N(0, 0.02^2)."""
    return nn.Parameter(torch.randn(width) * CLASS_TOKEN_STD)


def prepend_class_token(token: Tensor, x: Tensor) -> Tensor:
    """[D], [B, N, D] -> [B, 1 + N, D]."""
    return torch.cat([token.expand(len(x), 1, -1), x], dim=1)
