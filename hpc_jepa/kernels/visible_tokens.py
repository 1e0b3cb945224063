"""Blocks of tokens: where they can lie, and which tokens they leave visible."""

import torch
from torch import Tensor

from hpc_jepa.types import TokenGrid

BlockSize = tuple[int, int, int]
"""Tokens along time, height and width."""


def origin_counts(size: BlockSize, grid: TokenGrid) -> tuple[int, int, int]:
    """Admissible first tokens of a block along each axis."""
    time, height, width = size
    return grid.time - time + 1, grid.height - height + 1, grid.width - width + 1


def visible_tokens(origins: Tensor, size: BlockSize, grid: TokenGrid, tubelets: int) -> tuple[Tensor, Tensor]:
    """Tokens outside all blocks of a clip and within its first ``tubelets``: bool [B, N], and how many: int64 [B].

    ``origins`` [B, attempts, blocks] holds raster numbers of several placements per clip: the first that leaves a
    visible token counts, and if none does, the first block of the last attempt alone. Where even that hides everything,
    the count is 0.
    """
    one_block_alone = origins[:, -1:, :1].expand(-1, -1, origins.shape[-1])
    placements = torch.cat([origins, one_block_alone], dim=1)
    if origins.is_cuda:
        from hpc_jepa.kernels.triton.visible_tokens import visible_tokens_triton  # Triton comes with CUDA builds only

        return visible_tokens_triton(placements, size, grid, tubelets)
    return plain_visible_tokens(placements, size, grid, tubelets)


def plain_visible_tokens(placements: Tensor, size: BlockSize, grid: TokenGrid, tubelets: int) -> tuple[Tensor, Tensor]:
    """What :func:`visible_tokens` computes: later placements are looked at only while a clip needs one."""
    visible = _outside_blocks(placements[:, 0], size, grid, tubelets)
    counts = visible.sum(1)
    for placement in placements[:, 1:].unbind(1):
        hidden = counts == 0
        if not bool(hidden.any()):
            break
        visible[hidden] = _outside_blocks(placement[hidden], size, grid, tubelets)
        counts = visible.sum(1)
    return visible, counts


def _outside_blocks(origins: Tensor, size: BlockSize, grid: TokenGrid, tubelets: int) -> Tensor:
    """Tokens outside all blocks and within the first ``tubelets``: bool [B, N] for raster origins [B, blocks]."""
    _, down, across = origin_counts(size, grid)
    time = _inside(origins // (down * across), size[0], grid.time)
    rows = _inside(origins // across % down, size[1], grid.height)
    columns = _inside(origins % across, size[2], grid.width)
    visible = torch.einsum("bkt,bky,bkx->btyx", time, rows, columns).logical_not()
    visible[:, tubelets:] = False
    return visible.flatten(1)


def _inside(start: Tensor, length: int, side: int) -> Tensor:
    """Places of one axis inside a block: 1 or 0, [..., side] float32."""
    inside_from = torch.ones(side - length + 1, side, device=start.device).triu().tril(length - 1)
    return inside_from[start]
