"""Patches and rotations of selected tokens: one program per token copies both."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def patches_at_triton(
    pixels: Tensor, tokens: Tensor, rotations: Tensor, tubelet: int, patch: int
) -> tuple[Tensor, Tensor]:
    """``patches_at`` on a GPU. Complex rotations are passed as pairs of real numbers."""
    _, channels, frames, height, width = pixels.shape
    values = channels * tubelet * patch * patch
    patches = pixels.new_empty(*tokens.shape, values)
    rotated = rotations.new_empty(*tokens.shape, rotations.shape[1])
    table, rows = (torch.view_as_real(x).flatten(-2) if x.is_complex() else x for x in (rotations, rotated))
    _gather[(tokens.numel(),)](
        pixels.contiguous(), tokens.contiguous(), table.contiguous(), patches, rows, tokens.shape[1],
        channels, frames, height, width,
        TUBELET=tubelet, PATCH=patch, VALUES=values, BLOCK=triton.next_power_of_2(values),
        ROTATIONS=table.shape[1], ROTATIONS_BLOCK=triton.next_power_of_2(table.shape[1]),
    )  # fmt: skip
    return patches, rotated


@triton.jit(do_not_specialize=["tokens_of_clip"])
def _gather(
    pixels, tokens, table, patches, rows, tokens_of_clip, channels, frames, height, width,
    TUBELET: tl.constexpr, PATCH: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr,
    ROTATIONS: tl.constexpr, ROTATIONS_BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    token = tl.load(tokens + index)
    grid_height, grid_width = height // PATCH, width // PATCH
    time, row, column = token // (grid_height * grid_width), token // grid_width % grid_height, token % grid_width

    value = tl.arange(0, BLOCK)
    channel, frame = value // (TUBELET * PATCH * PATCH), value // (PATCH * PATCH) % TUBELET
    y, x = row * PATCH + value // PATCH % PATCH, column * PATCH + value % PATCH
    image = (index // tokens_of_clip * channels + channel) * frames + time * TUBELET + frame
    pixel = tl.load(pixels + (image * height + y) * width + x, mask=value < VALUES)
    tl.store(patches + index * VALUES + value, pixel, mask=value < VALUES)

    part = tl.arange(0, ROTATIONS_BLOCK)
    rotation = tl.load(table + token * ROTATIONS + part, mask=part < ROTATIONS)
    tl.store(rows + index * ROTATIONS + part, rotation, mask=part < ROTATIONS)
