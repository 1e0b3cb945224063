"""Rotary position embedding along time, rows and columns (RoPE: Su et al. 2021; three axes: V-JEPA 2).

A pair of adjacent channels is one complex number, and a position turns it by position * frequency.
"""

from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from hpc_jepa.latents import TokenGrid

BASE = 10_000.0
REFERENCE_SIDE = 16
"""Rows and columns are stretched onto a grid of this side, so that one model serves several resolutions."""


@torch.inference_mode(False)  # a table first made while evaluating must still serve training
@lru_cache(maxsize=16)
def rotations(grid: TokenGrid, head_width: int, device: torch.device) -> Tensor:
    """Unit complex numbers [N, head_width / 2] that turn the channel pairs of every token.

    Each axis owns ``2 * (head_width // 3 // 2)`` channels (order: time, row, column); the rest stay as they are.
    Always fp32: in bf16 the angles would be off by up to 0.03 on a 14x14 grid.
    """
    pairs = head_width // 3 // 2
    frequencies = BASE ** (-torch.arange(pairs, device=device) / pairs)
    axes = torch.meshgrid(
        torch.arange(grid.time, device=device, dtype=torch.float32),
        _stretched(grid.height, device),
        _stretched(grid.width, device),
        indexing="ij",
    )
    angles = torch.cat([axis.flatten()[:, None] * frequencies for axis in axes], dim=1)
    unrotated = angles.new_zeros(grid.tokens, head_width // 2 - 3 * pairs)
    angles = torch.cat([angles, unrotated], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the channel pairs of ``x`` [..., N, head_width] by ``rotation`` [..., N, head_width / 2]; returns fp32."""
    pairs = torch.view_as_complex(rearrange(x.float(), "... (pair part) -> ... pair part", part=2))
    return torch.view_as_real(pairs * rotation).flatten(-2)


def _stretched(side: int, device: torch.device) -> Tensor:
    return torch.arange(side, device=device, dtype=torch.float32) * ((REFERENCE_SIDE - 1) / max(side - 1, 1))
