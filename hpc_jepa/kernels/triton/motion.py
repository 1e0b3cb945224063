"""Motion of tubelet-patches in one pass over the pixels, and motion of blocks from a summed-area table."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_jepa.types import BlockSize, TokenGrid

CELLS_OF_WARP = 128
"""Places of a tubelet per warp in ``_block_scores``: four per thread, in double precision."""


def average_motion_triton(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """``average_motion`` on a GPU: one program per patch goes through all frames, so memory is read once."""
    clips, channels, frames, height, width = pixels.shape
    motion = torch.empty(clips, grid.time, grid.height, grid.width, device=pixels.device)
    rows, columns = height // grid.height, width // grid.width
    _average_motion[(clips * grid.cells,)](
        pixels.contiguous(), motion, grid.time, grid.height, grid.width, channels, frames, rows, columns,
        CHANNELS=triton.next_power_of_2(channels),
        ROWS=triton.next_power_of_2(rows),
        COLUMNS=triton.next_power_of_2(columns),
    )  # fmt: skip
    return motion


def block_scores_triton(motion: Tensor, size: BlockSize) -> Tensor:
    """``block_scores`` on a GPU, from the eight corners of a block in a summed-area table (Crow 1984) of three axes."""
    grid = TokenGrid(*motion.shape[1:])
    counts = grid.origin_counts(size)
    scores = torch.empty(len(motion), math.prod(counts), dtype=torch.float64, device=motion.device)
    _block_scores[(len(motion),)](
        motion.contiguous(), torch.empty_like(motion, dtype=torch.float64), scores,
        *motion.shape[1:], *size, *counts,
        **block_scores_sizes(grid),
    )  # fmt: skip
    return scores


def block_scores_sizes(grid: TokenGrid) -> dict[str, int]:
    """Sizes ``_block_scores`` is compiled for."""
    height, width = triton.next_power_of_2(grid.height), triton.next_power_of_2(grid.width)
    return {"HEIGHT": height, "WIDTH": width, "num_warps": min(max(height * width // CELLS_OF_WARP, 4), 32)}


@triton.jit
def _average_motion(
    pixels, motion, time, height, width, channels, frames, rows, columns,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0) % (height * width)
    clip = tl.program_id(0) // (height * width)
    channel = tl.arange(0, CHANNELS)[:, None, None]
    row = tl.arange(0, ROWS)[None, :, None]
    column = tl.arange(0, COLUMNS)[None, None, :]
    inside = (channel < channels) & (row < rows) & (column < columns)
    frame_size = height * rows * width * columns
    pixel = (cell // width * rows + row) * width * columns + cell % width * columns + column
    place = pixels + (clip.to(tl.int64) * channels + channel) * frames * frame_size + pixel

    of_tubelet = frames // time
    for tubelet in range(time):
        change = tl.zeros([CHANNELS, ROWS, COLUMNS], tl.float32)
        for frame in range(tubelet * of_tubelet, (tubelet + 1) * of_tubelet):
            later = tl.maximum(frame, 1)  # the first frame repeats the second's difference
            now = tl.load(place + later * frame_size, mask=inside, other=0.0).to(tl.float32)
            before = tl.load(place + (later - 1) * frame_size, mask=inside, other=0.0).to(tl.float32)  # from the cache
            change += tl.abs(now - before)
        mean = tl.sum(change) / (channels * rows * columns * of_tubelet)
        tl.store(motion + (clip * time + tubelet) * height * width + cell, mean)


@triton.jit(
    do_not_specialize=["block_time", "block_height", "block_width", "origin_times", "origin_rows", "origin_columns"]
)
def _block_scores(
    motion, table, scores, time, height, width, block_time, block_height, block_width,
    origin_times, origin_rows, origin_columns,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    clip = tl.program_id(0)
    y = tl.arange(0, HEIGHT)[:, None]
    x = tl.arange(0, WIDTH)[None, :]
    cells = height * width
    inside = (y < height) & (x < width)
    cell = y * width + x
    table += clip * time * cells

    below = tl.zeros([HEIGHT, WIDTH], tl.float64)
    for t in range(time):  # one tubelet at a time: a whole grid of 64 frames does not fit into the registers
        below += tl.load(motion + (clip * time + t) * cells + cell, mask=inside, other=0.0).to(tl.float64)
        tl.store(table + t * cells + cell, tl.cumsum(tl.cumsum(below, 0), 1), mask=inside)
    tl.debug_barrier()  # other threads' writes are read below

    admissible = (y < origin_rows) & (x < origin_columns)
    volume = block_time * block_height * block_width
    scores += clip * origin_times * origin_rows * origin_columns
    for t in range(origin_times):
        score = tl.zeros([HEIGHT, WIDTH], tl.float64)
        for corner in tl.static_range(8):
            later, lower, right = corner // 4, corner // 2 % 2, corner % 2
            end_y, end_x = y + lower * block_height, x + right * block_width
            end_t = t + later * block_time + tl.zeros_like(y)
            place = ((end_t - 1) * height + end_y - 1) * width + end_x - 1
            sums = tl.load(table + place, mask=admissible & (end_t > 0) & (end_y > 0) & (end_x > 0), other=0.0)
            score += sums if (later + lower + right) % 2 else -sums
        origin = (t * origin_rows + y) * origin_columns + x
        tl.store(scores + origin, score / volume, mask=admissible)
