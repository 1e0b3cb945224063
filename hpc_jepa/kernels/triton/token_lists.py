"""Token lists, distances and next positions from visible tokens: one launch, one program per clip."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_jepa.types import TokenGrid, TokenLists, Truncation

TOKENS_OF_WARP = 512


def token_lists_triton(visible: Tensor, truncation: Truncation, clips: slice, grid: TokenGrid) -> TokenLists:
    """``token_lists`` on a GPU. Pairs are counted for all clips; lists are written for the requested clips."""
    total, requested = len(visible), clips.stop - clips.start
    keep, predict = truncation.lengths
    lists = TokenLists(
        context=torch.empty(requested, keep, dtype=torch.int64, device=visible.device),
        target=torch.empty(requested, predict, dtype=torch.int64, device=visible.device),
        context_distance=torch.empty(requested, keep, device=visible.device),
        next_in_context=torch.empty(requested, keep, dtype=torch.int64, device=visible.device),
        pairs=torch.empty(total, dtype=torch.int64, device=visible.device),
    )
    order = truncation.order
    _lists[(total,)](
        visible.contiguous().view(torch.uint8), truncation.limits, visible if order is None else order.contiguous(),
        *lists,
        torch.empty(total, grid.tokens, dtype=torch.int32, device=visible.device),
        torch.empty(total, grid.tokens, device=visible.device),
        total // len(truncation.limits), clips.start, clips.stop, keep, predict,
        TIME=grid.time, HEIGHT=grid.height, WIDTH=grid.width, **block_of(grid),
        ORDERED=order is not None, COMPLEMENT=truncation.complement,
    )  # fmt: skip
    return lists


def block_of(grid: TokenGrid) -> dict[str, int]:
    """Block over all tokens of a clip, with sixteen tokens per thread: more would not fit into the registers."""
    block = triton.next_power_of_2(grid.tokens)
    return {"BLOCK": block, "num_warps": min(max(block // TOKENS_OF_WARP, 4), 32)}


@triton.jit(do_not_specialize=["first", "end", "keep", "predict"])  # compiled once for all lengths
def _lists(
    visible, limits, order, context, target, distance, next_position, pairs, scratch, squared,
    clips_of_part, first, end, keep, predict,
    TIME: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ORDERED: tl.constexpr, COMPLEMENT: tl.constexpr,
):  # fmt: skip
    CELLS: tl.constexpr = HEIGHT * WIDTH
    TOKENS: tl.constexpr = TIME * CELLS
    clip = tl.program_id(0)
    token = tl.arange(0, BLOCK)
    inside = token < TOKENS
    visible += clip * TOKENS
    scratch += clip * TOKENS
    squared += clip * TOKENS
    limits += 2 * (clip // clips_of_part)

    if ORDERED:
        ranked = tl.load(order + clip * TOKENS + token, mask=inside, other=0)
        kept, predicted = _truncated(visible, ranked, inside, limits, COMPLEMENT)
        tl.store(scratch + ranked, kept.to(tl.int32) + 2 * predicted.to(tl.int32), mask=inside)
        tl.debug_barrier()  # other threads' writes are read below
        role = tl.load(scratch + token, mask=inside, other=0)
        kept, predicted = role == 1, role == 2
        tl.debug_barrier()
    else:
        kept, predicted = _truncated(visible, token, inside, limits, COMPLEMENT)

    position = tl.where(kept, tl.cumsum(kept.to(tl.int32)) - 1, -1)
    tl.store(scratch + token, position, mask=inside)
    tl.debug_barrier()
    later = tl.load(scratch + token + CELLS, mask=token + CELLS < TOKENS, other=-1)
    tl.store(pairs + clip, tl.sum((kept & (later >= 0)).to(tl.int64)))

    if (clip >= first) & (clip < end):
        place = (clip - first) * keep + position
        tl.store(context + place, token.to(tl.int64), mask=kept)
        tl.store(next_position + place, later.to(tl.int64), mask=kept)
        place_of_target = (clip - first) * predict + tl.cumsum(predicted.to(tl.int32)) - 1
        tl.store(target + place_of_target, token.to(tl.int64), mask=predicted)
        nearest = tl.where(predicted, 0.0, float("inf"))
        nearest = _minimum_along_axis(nearest, squared, token, inside, CELLS, TIME)
        nearest = _minimum_along_axis(nearest, squared, token, inside, WIDTH, HEIGHT)
        nearest = _minimum_along_axis(nearest, squared, token, inside, 1, WIDTH)
        position = tl.load(scratch + token, mask=inside, other=-1)  # again: kept in registers it would spill
        place = (clip - first) * keep + position
        tl.store(distance + place, tl.sqrt_rn(tl.sqrt_rn(nearest)), mask=position >= 0)


@triton.jit
def _truncated(visible, ranked, inside, limits, COMPLEMENT: tl.constexpr):
    """Masks of the kept and of the predicted tokens, in the given order."""
    seen = tl.load(visible + ranked, mask=inside, other=0) != 0
    hidden = inside & ~seen
    kept = seen & (tl.cumsum(seen.to(tl.int32)) <= tl.load(limits))
    if COMPLEMENT:
        return kept, inside & ~kept
    return kept, hidden & (tl.cumsum(hidden.to(tl.int32)) <= tl.load(limits + 1))


@triton.jit
def _minimum_along_axis(nearest, squared, token, inside, STRIDE: tl.constexpr, SIDE: tl.constexpr):
    """Squared distances when steps along one axis are allowed too; threads exchange values through ``squared``."""
    tl.store(squared + token, nearest, mask=inside)
    tl.debug_barrier()
    here = token // STRIDE % SIDE
    for there in range(SIDE):
        step = there - here
        other = tl.load(squared + token + step * STRIDE, mask=inside, other=0.0)
        nearest = tl.minimum(nearest, other + (step * step).to(tl.float32))
    tl.debug_barrier()  # all threads have read before the next axis writes
    return nearest
