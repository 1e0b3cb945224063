"""Tokens that mask blocks leave visible: one program per clip."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_jepa.kernels.triton.token_lists import block_of
from hpc_jepa.types import BlockSize, TokenGrid


def visible_tokens_triton(placements: Tensor, size: BlockSize, grid: TokenGrid, tubelets: int) -> tuple[Tensor, Tensor]:
    """``visible_tokens`` on a GPU, from placements [B, attempts, blocks]; the first that leaves a token is used."""
    clips, attempts, blocks = placements.shape
    visible = torch.empty(clips, grid.tokens, dtype=torch.bool, device=placements.device)
    counts = torch.empty(clips, dtype=torch.int64, device=placements.device)
    _, rows, columns = grid.origin_counts(size)
    _visible[(clips,)](
        placements.contiguous(), visible.view(torch.uint8), counts, attempts, blocks, *size, rows, columns,
        grid.tokens, grid.height, grid.width, tubelets * grid.cells, **block_of(grid),
    )  # fmt: skip
    return visible, counts


CHANGES_BY_STEP = ["block_height", "block_width", "origin_rows", "origin_columns"]
"""Not specialised, so that the kernel is compiled once and not again when a size is first 1 or divisible by 16."""


@triton.jit(do_not_specialize=CHANGES_BY_STEP)
def _visible(
    placements, visible, counts, attempts, blocks, block_time, block_height, block_width, origin_rows, origin_columns,
    tokens, height, width, usable_tokens, BLOCK: tl.constexpr,
):  # fmt: skip
    clip = tl.program_id(0)
    token = tl.arange(0, BLOCK)
    time, row, column = token // (height * width), token // width % height, token % width
    seen = token < 0
    count = tl.sum(seen.to(tl.int64))
    for attempt in range(attempts):
        outside = token < usable_tokens
        for block in range(blocks):
            origin = tl.load(placements + (clip * attempts + attempt) * blocks + block).to(tl.int32)
            t = time - origin // (origin_rows * origin_columns)
            y = row - origin // origin_columns % origin_rows
            x = column - origin % origin_columns
            inside = (t >= 0) & (t < block_time) & (y >= 0) & (y < block_height) & (x >= 0) & (x < block_width)
            outside = outside & ~inside
        seen = tl.where(count == 0, outside, seen)
        count = tl.sum(seen.to(tl.int64))
    tl.store(visible + clip * tokens + token, seen.to(tl.uint8), mask=token < tokens)
    tl.store(counts + clip, count)
