"""Tokens that mask blocks leave visible."""

import torch
from torch import Tensor

from hpc_jepa.types import BlockSize, TokenGrid


def visible_tokens(origins: Tensor, size: BlockSize, grid: TokenGrid, tubelets: int) -> tuple[Tensor, Tensor]:
    """Tokens outside all blocks of a clip and in its first ``tubelets``: bool [B, N], and their number: int64 [B].

    origins: [B, attempts, blocks] raster indices of several placements per clip. The first placement that leaves a
    visible token is used; if none does, the first block of the last attempt. If that hides everything too, the count
    is 0.
    """
    single_block = origins[:, -1:, :1].expand(-1, -1, origins.shape[-1])
    placements = torch.cat([origins, single_block], dim=1)
    if origins.is_cuda:
        from hpc_jepa.kernels.triton.visible_tokens import visible_tokens_triton  # Triton comes with CUDA builds only

        return visible_tokens_triton(placements, size, grid, tubelets)
    return plain_visible_tokens(placements, size, grid, tubelets)


def plain_visible_tokens(placements: Tensor, size: BlockSize, grid: TokenGrid, tubelets: int) -> tuple[Tensor, Tensor]:
    """:func:`visible_tokens` in PyTorch. Later placements are computed only while a clip needs one."""
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
    """Tokens outside all blocks and in the first ``tubelets``: bool [B, N], for raster origins [B, blocks]."""
    _, down, across = grid.origin_counts(size)
    time = _inside(origins // (down * across), size[0], grid.time)
    rows = _inside(origins // across % down, size[1], grid.height)
    columns = _inside(origins % across, size[2], grid.width)
    visible = torch.einsum("bkt,bky,bkx->btyx", time, rows, columns).logical_not()
    visible[:, tubelets:] = False
    return visible.flatten(1)


def _inside(start: Tensor, length: int, side: int) -> Tensor:
    """1 for the places of one axis inside a block, else 0: [..., side] float32."""
    inside_from = torch.ones(side - length + 1, side, device=start.device).triu().tril(length - 1)
    return inside_from[start]
