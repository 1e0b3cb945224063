"""From visible tokens to index lists of one length, and what depends on them alone."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_jepa.types import TokenGrid


class TokenLists(NamedTuple):
    """Lists of some clips [B, ...] and the pairs of all clips of the global batch [G].

    context: [B, K] int64, visible tokens, ascending. target: [B, Q] int64, tokens to predict, ascending.
    context_distance: [B, K] float32, sqrt of the grid distance to the nearest target token.
    next_in_context: [B, K] int64, position in the context of the same place one tubelet later, or -1.
    pairs: [G] int64, number of context tokens that have such a position.
    """

    context: Tensor
    target: Tensor
    context_distance: Tensor
    next_in_context: Tensor
    pairs: Tensor


@dataclass(frozen=True)
class Truncation:
    """How the clips of the global batch come to lists of one length.

    limits: [parts, 2] int64, context and target tokens that every clip of a part of the batch keeps.
    lengths: those of the part that the wanted clips belong to, known to the host.
    order: [G, N] int64, a permutation of each clip's tokens: the first are kept. Raster order without it.
    complement: every token outside the context becomes a target.
    """

    limits: Tensor
    lengths: tuple[int, int]
    order: Tensor | None = None
    complement: bool = False


def smallest_counts(visible: Tensor, parts: int, tokens: int, complement: bool) -> Tensor:
    """Numbers of visible tokens [G], of N -> ``Truncation.limits``: the smallest lists in each part of the batch."""
    fewest, most = visible.view(parts, -1).aminmax(dim=1)
    return torch.stack([fewest, tokens - (fewest if complement else most)], 1)


def token_lists(visible: Tensor, truncation: Truncation, clips: slice, grid: TokenGrid) -> TokenLists:
    """Lists of the ``wanted`` clips, made from the visible tokens [G, N] of the global batch."""
    if visible.is_cuda:
        from hpc_jepa.kernels.triton.token_lists import token_lists_triton  # Triton comes with CUDA builds only

        return token_lists_triton(visible, truncation, clips, grid)
    return plain_token_lists(visible, truncation, clips, grid)


def plain_token_lists(visible: Tensor, truncation: Truncation, clips: slice, grid: TokenGrid) -> TokenLists:
    """What :func:`token_lists` computes, one list after the other."""
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
    """Orders of spatial positions [B, H*W] -> orders of tokens [B, N] that go through one whole position at a time."""
    first_tubelet = torch.arange(grid.time, device=column_order.device) * grid.cells
    return (column_order.unsqueeze(-1) + first_tubelet).flatten(1)


def truncate(chosen: Tensor, limit: Tensor, order: Tensor | None = None) -> Tensor:
    """The first ``limit`` [B, 1] chosen tokens of every clip: bool [B, N] -> bool [B, N].

    First in ``order`` [B, N], a permutation per clip, or as they stand.
    """
    if order is None:
        return chosen & (chosen.cumsum(1) <= limit)
    return torch.zeros_like(chosen).scatter(1, order, truncate(chosen.gather(1, order), limit))


def token_list(chosen: Tensor) -> Tensor:
    """Bool [B, N] with equally many entries in every row -> their indexes [B, K] int64, ascending."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def context_distance(context: Tensor, target: Tensor, grid: TokenGrid) -> Tensor:
    """Square root of the grid distance from each context token [B, K] to the nearest target token [B, Q]: [B, K] fp32.

    An exact Euclidean distance transform: squared distances are lowered along one axis after the other (Felzenszwalb
    and Huttenlocher 2012), T + H + W steps per token instead of one for every pair of tokens. Each axis comes first
    in its turn and clips last, so that every step runs over contiguous memory.
    """
    far = torch.full((grid.tokens, len(target)), torch.inf, device=target.device)
    squared = far.scatter_(0, target.T, 0.0).view(grid.time, grid.height, grid.width, -1)
    for _ in range(3):
        squared = _lowered(squared).movedim(0, 2).contiguous()  # the next axis comes first
    return squared.flatten(0, 2).T.gather(1, context).sqrt().sqrt()


def _lowered(squared: Tensor) -> Tensor:
    """Squared distances [places, ...] when steps along the first axis are allowed too.

    One place of the axis at a time: a table of all pairs of places would not stay in the cache.
    """
    place = torch.arange(len(squared), device=squared.device, dtype=squared.dtype)
    steps = (place[:, None] - place).square()[..., None, None, None]
    lowest, candidate = squared[0] + steps[0], torch.empty_like(squared)
    for start in range(1, len(squared)):
        torch.add(squared[start], steps[start], out=candidate)
        torch.minimum(lowest, candidate, out=lowest)
    return lowest


def next_in_context(context: Tensor, grid: TokenGrid) -> Tensor:
    """For each context token [B, K] the position in the context of its place one tubelet later, or -1: [B, K] int64."""
    positions = torch.arange(context.shape[1], device=context.device).expand_as(context)
    beyond_the_clip = grid.tokens + grid.cells
    position_of = context.new_full((len(context), beyond_the_clip), -1).scatter_(1, context, positions)
    return position_of.gather(1, context + grid.cells)


def count_pairs(context: Tensor, grid: TokenGrid) -> Tensor:
    """Context tokens whose place one tubelet later is in the context too: bool [B, N] -> count per clip [B]."""
    return (context[:, : -grid.cells] & context[:, grid.cells :]).sum(1)
