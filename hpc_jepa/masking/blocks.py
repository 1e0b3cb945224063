"""Blocks: how large they are in a step, where they lie, and which tokens they leave visible."""

import math

import torch
from torch import Tensor

from hpc_jepa.config.masking import MaskGroupConfig
from hpc_jepa.errors import InputError
from hpc_jepa.latents import TokenGrid

BlockSize = tuple[int, int, int]
"""Tokens along time, height and width."""


def block_size(group: MaskGroupConfig, grid: TokenGrid, step: int) -> BlockSize:
    """Size of every block of the group in this step, for all clips and all processes.

    Volume and aspect ratio follow V-JEPA's multi-block masking: a generator seeded with the step draws one uniform
    number each for time, area and aspect; with fixed scales only the aspect varies.
    """
    generator = torch.Generator().manual_seed(step)
    _, _, aspect_draw = torch.rand(3, generator=generator).tolist()
    low, high = group.aspect
    aspect = low + aspect_draw * (high - low)
    area = int(grid.cells * group.spatial_scale)
    time = max(1, int(grid.time * group.temporal_scale))
    height = min(grid.height, max(1, round(math.sqrt(area * aspect))))
    width = min(grid.width, max(1, round(math.sqrt(area / aspect))))
    return time, height, width


def origin_counts(size: BlockSize, grid: TokenGrid) -> tuple[int, int, int]:
    """Admissible first tokens of a block along each axis."""
    time, height, width = size
    return grid.time - time + 1, grid.height - height + 1, grid.width - width + 1


def uniform_origins(draws: Tensor, size: BlockSize, grid: TokenGrid) -> Tensor:
    """Uniform draws in [0, 1) -> int64 raster numbers of block origins, of the same shape."""
    return (draws * math.prod(origin_counts(size, grid))).long()


def visible_tokens(origins: Tensor, size: BlockSize, grid: TokenGrid, group: MaskGroupConfig) -> Tensor:
    """Tokens outside all blocks of a clip and within its first tubelets: bool [B, N].

    ``origins`` [B, attempts, blocks] holds several placements per clip: the first that leaves a visible token counts,
    and if none does, the first block of the last attempt alone.

    Raises InputError if even one block hides everything the context may use.
    """
    one_block_alone = origins[:, -1:, :1].expand(-1, -1, origins.shape[-1])
    visible = _outside_blocks(torch.cat([origins, one_block_alone], dim=1), size, grid)
    keep = max(1, int(grid.time * group.temporal_keep)) * grid.cells
    visible[..., keep:] = False
    chosen = visible.any(-1).int().argmax(1)
    visible = visible[torch.arange(len(visible), device=visible.device), chosen]
    if not bool(visible.any(-1).all()):
        raise InputError(
            f"masking.groups: one block of {size[0]}x{size[1]}x{size[2]} tokens hides the whole context of a "
            f"{grid.time}x{grid.height}x{grid.width} grid; lower spatial_scale ({group.spatial_scale}) or raise "
            f"temporal_keep ({group.temporal_keep})"
        )
    return visible


def _outside_blocks(origins: Tensor, size: BlockSize, grid: TokenGrid) -> Tensor:
    """Tokens outside all blocks of a placement: bool [..., N] for raster origins [..., blocks]."""
    starts = torch.unravel_index(origins, origin_counts(size, grid))
    sides = (grid.time, grid.height, grid.width)
    time, rows, columns = (_inside(*axis) for axis in zip(starts, size, sides, strict=True))
    return torch.einsum("...kt,...ky,...kx->...tyx", time, rows, columns).flatten(-3) == 0


def _inside(start: Tensor, length: int, side: int) -> Tensor:
    """Places of one axis inside a block: 1 or 0, [..., side] float32."""
    offset = torch.arange(side, device=start.device) - start.unsqueeze(-1)
    return ((offset >= 0) & (offset < length)).float()
