"""From visible tokens to index lists of one length, and what depends on them alone."""

import torch
from torch import Tensor

from hpc_jepa.latents import TokenGrid


def tube_order(column_order: Tensor, grid: TokenGrid) -> Tensor:
    """Orders of spatial positions [B, H*W] -> orders of tokens [B, N] that go through one whole position at a time."""
    first_tubelet = torch.arange(grid.time, device=column_order.device) * grid.cells
    return (column_order.unsqueeze(-1) + first_tubelet).flatten(1)


def truncate(chosen: Tensor, order: Tensor, processes: int) -> Tensor:
    """Reduce every clip to the smallest number of chosen tokens among the clips it shares a count with.

    ``chosen`` [B, N] bool; the first tokens in ``order`` [B, N] (a permutation per clip) are kept. Rows fall into
    ``processes`` equal parts, each with a count of its own. Returns bool [B, N].
    """
    counts = chosen.sum(1).view(processes, -1)
    limit = counts.amin(1, keepdim=True).expand_as(counts).reshape(-1, 1)
    ordered = chosen.gather(1, order)
    kept = ordered & (ordered.cumsum(1) <= limit)
    return torch.zeros_like(chosen).scatter(1, order, kept)


def token_list(chosen: Tensor) -> Tensor:
    """Bool [B, N] with equally many entries in every row -> their indexes [B, K] int64, ascending."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def context_distance(context: Tensor, target: Tensor, grid: TokenGrid) -> Tensor:
    """Square root of the grid distance from each context token [B, K] to the nearest target token [B, Q]: [B, K] fp32.

    An exact Euclidean distance transform: squared distances are lowered along one axis after the other (Felzenszwalb
    and Huttenlocher 2012), T + H + W steps per token instead of one for every pair of tokens. Clips are the innermost
    dimension, so that every step runs over contiguous memory.
    """
    far = torch.full((grid.tokens, len(target)), torch.inf, device=target.device)
    squared = far.scatter(0, target.T, 0.0).view(grid.time, grid.height, grid.width, -1)
    for axis in range(3):
        place = torch.arange(squared.shape[axis], device=target.device)
        steps = (place[:, None] - place).square()[(...,) + (None,) * (3 - axis)]
        squared = (squared.unsqueeze(axis) + steps).amin(axis + 1)
    return squared.flatten(0, 2).T.gather(1, context).sqrt().sqrt()


def next_in_context(context: Tensor, grid: TokenGrid) -> Tensor:
    """For each context token [B, K] the position in the context of its place one tubelet later, or -1: [B, K] int64."""
    positions = torch.arange(context.shape[1], device=context.device).expand_as(context)
    beyond_the_clip = grid.tokens + grid.cells
    position_of = context.new_full((len(context), beyond_the_clip), -1).scatter(1, context, positions)
    return position_of.gather(1, context + grid.cells)


def pairs(context: Tensor, grid: TokenGrid) -> Tensor:
    """Context tokens whose place one tubelet later is in the context too: bool [B, N] -> count per clip [B]."""
    return (context[:, : -grid.cells] & context[:, grid.cells :]).sum(1)
