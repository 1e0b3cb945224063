"""Rotary position embedding along time, rows and columns (RoPE: Su et al. 2021; three axes: V-JEPA 2).

A pair of adjacent channels is one complex number, rotated by the angle position * frequency. This is the form of
V-JEPA 2.1, which also stretches rows and columns onto one reference grid. V-JEPA 2 uses unstretched rows and columns
and assigns frequencies to channels in another order: the two channels of a pair get different frequencies, so its
transform is not a rotation. Weights trained with it need it (``vjepa2``).
"""

from functools import lru_cache

import torch
from torch import Tensor

from hpc_jepa.config.model import Rotary
from hpc_jepa.types import TokenGrid

BASE = 10_000.0
REFERENCE_SIDE = 16
"""Rows and columns are stretched onto a grid with this side, so that one model handles several resolutions."""


@torch.inference_mode(False)  # a table cached during evaluation must also work in training
@lru_cache(maxsize=16)
def rotations(grid: TokenGrid, head_width: int, device: torch.device, rotary: Rotary = "vjepa2.1") -> Tensor:
    """Unit complex numbers [N, head_width / 2] that rotate the channel pairs of every token.

    Each axis (time, row, column) has ``2 * (head_width // 3 // 2)`` channels; the remaining channels are not rotated.
    ``vjepa2``: [N, head_width], one number per channel. Always fp32: in bf16 the angles on a 14x14 grid would be wrong
    by up to 0.03.
    """
    pairs = head_width // 3 // 2
    frequencies = BASE ** (-torch.arange(pairs, device=device) / pairs)
    if rotary == "vjepa2":
        frequencies = frequencies.repeat(2)  # channel c gets frequency c modulo pairs
    axes = torch.meshgrid(
        torch.arange(grid.time, device=device, dtype=torch.float32),
        _positions(grid.height, device, rotary),
        _positions(grid.width, device, rotary),
        indexing="ij",
    )
    angles = torch.cat([axis.flatten()[:, None] * frequencies for axis in axes], dim=1)
    columns = head_width if rotary == "vjepa2" else head_width // 2
    angles = torch.cat([angles, angles.new_zeros(grid.tokens, columns - angles.shape[1])], dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def _positions(side: int, device: torch.device, rotary: Rotary) -> Tensor:
    counted = torch.arange(side, device=device, dtype=torch.float32)
    return counted if rotary == "vjepa2" else counted * ((REFERENCE_SIDE - 1) / max(side - 1, 1))
