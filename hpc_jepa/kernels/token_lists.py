"""Token lists of equal length from masks of visible tokens."""

import torch
from torch import Tensor

from hpc_jepa.types import TokenGrid, TokenLists, Truncation, context_distance, next_in_context


def smallest_counts(visible: Tensor, parts: int, tokens: int, complement: bool) -> Tensor:
    """Numbers of visible tokens [G], of N -> ``Truncation.limits``: the shortest lists in each part of the batch."""
    fewest, most = visible.view(parts, -1).aminmax(dim=1)
    return torch.stack([fewest, tokens - (fewest if complement else most)], 1)


def token_lists(visible: Tensor, truncation: Truncation, clips: slice, grid: TokenGrid) -> TokenLists:
    """Token lists of the given clips, from the visible tokens [G, N] of the global batch."""
    if visible.is_cuda:
        from hpc_jepa.kernels.triton.token_lists import token_lists_triton  # Triton comes with CUDA builds only

        return token_lists_triton(visible, truncation, clips, grid)
    return plain_token_lists(visible, truncation, clips, grid)


def plain_token_lists(visible: Tensor, truncation: Truncation, clips: slice, grid: TokenGrid) -> TokenLists:
    """:func:`token_lists` in PyTorch."""
    clips_of_part = len(visible) // len(truncation.limits)
    limits = truncation.limits.repeat_interleave(clips_of_part, 0)
    kept = truncate(visible, limits[:, :1], truncation.order)
    context = token_list(kept[clips])
    if truncation.complement:
        target = token_list(~kept[clips])
    else:
        order = None if truncation.order is None else truncation.order[clips]
        target = token_list(truncate(~visible[clips], limits[clips, 1:], order))
    return TokenLists(
        context=context,
        target=target,
        context_distance=context_distance(context, target, grid),
        next_in_context=next_in_context(context, grid),
        pairs=count_pairs(kept, grid),
    )


def tube_order(column_order: Tensor, grid: TokenGrid) -> Tensor:
    """Orders of spatial positions [B, H*W] -> orders of tokens [B, N], position by position, all tubelets of each."""
    first_tubelet = torch.arange(grid.time, device=column_order.device) * grid.cells
    return (column_order.unsqueeze(-1) + first_tubelet).flatten(1)


def truncate(chosen: Tensor, limit: Tensor, order: Tensor | None = None) -> Tensor:
    """The first ``limit`` [B, 1] chosen tokens of every clip: bool [B, N] -> bool [B, N].

    First in ``order`` [B, N], a permutation per clip, or in raster order.
    """
    if order is None:
        return chosen & (chosen.cumsum(1) <= limit)
    return torch.zeros_like(chosen).scatter(1, order, truncate(chosen.gather(1, order), limit))


def token_list(chosen: Tensor) -> Tensor:
    """Bool [B, N] with K true entries per row -> their indices [B, K] int64, ascending."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def count_pairs(context: Tensor, grid: TokenGrid) -> Tensor:
    """Number of context tokens whose place one tubelet later is in the context too: bool [B, N] -> [B]."""
    return (context[:, : -grid.cells] & context[:, grid.cells :]).sum(1)
