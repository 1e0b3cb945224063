"""Self-attention block of the probes, with torch's parameters and initialisation, compatible with torch.func."""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from hpc_jepa.errors import InputError

CLASS_TOKEN_STD = 0.02


class PostNormAttention(nn.Module):
    """LayerNorm(x + MultiheadAttention(x, x, x)), over the second axis."""

    def __init__(self, width: int, heads: int) -> None:
        """Raises InputError if heads does not divide width."""
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
        # Not scaled_dot_product_attention: torch.func has no vmap rule for the fused CPU kernel; sequences are short.
        mixed = (query @ key.mT / math.sqrt(key.shape[-1])).softmax(dim=-1) @ value
        normed: Tensor = self.norm(x + self.proj(rearrange(mixed, "b h n k -> b n (h k)")))
        return normed


def check_heads(width: int, heads: int) -> None:
    """Raise InputError if the number of heads does not divide the width."""
    if width % heads:
        raise InputError(f"probe: heads ({heads}) must divide the width of the encoder ({width})")


def class_token(width: int) -> nn.Parameter:
    """A learned token from N(0, 0.02^2)."""
    return nn.Parameter(torch.randn(width) * CLASS_TOKEN_STD)


def prepend_class_token(token: Tensor, x: Tensor) -> Tensor:
    """[D], [B, N, D] -> [B, 1 + N, D]."""
    return torch.cat([token.expand(len(x), 1, -1), x], dim=1)
