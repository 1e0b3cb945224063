"""Multi-head self-attention with rotary position embedding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hpc_jepa.models.rotary import rotate


class Attention(nn.Module):
    """Full bidirectional attention; queries and keys are rotated by their token's position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, groups: Sequence[int]) -> Tensor:
        """Features [B, N, width] and rotations [B or 1, 1, N, head_width (/ 2), 2] -> [B, N, width].

        groups: numbers of tokens that add up to N; tokens attend only within their group.
        """
        qkv = rearrange(self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        value = qkv[2]
        query, key = rotate(qkv[:2], rotation).to(value.dtype)
        parts = zip(*(x.split(groups, dim=2) for x in (query, key, value)), strict=True)
        attended = [rearrange(F.scaled_dot_product_attention(*part), "b heads n d -> b n (heads d)") for part in parts]
        return self.proj(torch.cat(attended, dim=1) if len(attended) > 1 else attended[0])  # type: ignore[no-any-return]
