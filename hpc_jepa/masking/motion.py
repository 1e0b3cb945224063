"""Motion guidance: blocks prefer to lie where the clip moves, so that motion is predicted rather than seen."""

from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hpc_jepa.errors import InputError
from hpc_jepa.kernels.blocks import BlockSize
from hpc_jepa.kernels.motion import average_motion, block_scores
from hpc_jepa.latents import TokenGrid

FLOOR = 1e-6
"""Smallest motion that counts; a clip without any is treated uniformly."""


def motion_map(
    pixels: Tensor, grid: TokenGrid, pool: Literal["trilinear", "area"], norm: Literal["tubelet", "clip"]
) -> Tensor:
    """Motion of every token: clips [B, C, F, Hp, Wp] -> [B, T, H, W], zero for a clip of one frame.

    Absolute frame difference, averaged over channels (the first frame repeats the second's), brought to the token grid
    by averaging each tubelet-patch (``area``) or by interpolation without antialiasing (``trilinear``, B10), divided by
    the maximum of the clip (``clip``) or, tubelet t of all clips, by the maximum of clip t (``tubelet``, B24).

    Raises InputError if ``tubelet`` meets another number of clips than tubelets.
    """
    if pixels.shape[2] < 2:
        return pixels.new_zeros(len(pixels), grid.time, grid.height, grid.width)
    motion = average_motion(pixels, grid) if pool == "area" else _interpolated(pixels, grid)
    maxima = motion.amax((1, 2, 3)).clamp(min=FLOOR)
    if norm == "clip":
        return motion / maxima[:, None, None, None]
    if len(motion) != grid.time:
        raise InputError(
            f"semantics.motion_norm: 'tubelet' divides tubelet t by the maximum of clip t and needs as many clips per "
            f"process ({len(motion)}) as tubelets ({grid.time}); change engine.batch_size or set motion_norm to 'clip'"
        )
    return motion / maxima[None, :, None, None]


def _interpolated(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Frame differences resized to the grid: one clip after the other on a CPU, whose cache holds one."""
    parts = len(pixels) if pixels.device.type == "cpu" else 1
    return torch.cat([_resized(part, grid) for part in pixels.chunk(parts)])


def _resized(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Frame differences [B, T, H, W] by linear interpolation, from the few pixels that count in it."""
    change = _pixels_that_count(pixels, grid).diff(dim=3).abs_().mean((1, 2))
    change = torch.cat([change[:, :1], change], dim=1).unsqueeze(1)
    size = (grid.time, grid.height, grid.width)
    return F.interpolate(change, size=size, mode="trilinear", align_corners=False).squeeze(1)


def _pixels_that_count(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Clips [B, C, F, Hp, Wp] -> [B, 4, C, F, H, W], the two by two pixels around the centre of every patch.

    Linear interpolation averages these four where patches have even sides. Elsewhere all count: [B, 1, C, F, Hp, Wp].
    """
    rows, columns = pixels.shape[3] // grid.height, pixels.shape[4] // grid.width
    if rows % 2 or columns % 2:
        return pixels.unsqueeze(1)
    places = product((rows // 2 - 1, rows // 2), (columns // 2 - 1, columns // 2))
    return torch.stack([pixels[..., y::rows, x::columns] for y, x in places], dim=1)


def guided_origins(draws: Tensor, motion: Tensor, size: BlockSize, strength: float) -> Tensor:
    """Block origins with probability proportional to max(mean motion inside the block, 1e-6)^strength.

    ``draws`` [B, ...] uniform in [0, 1) are put through the inverse cumulative distribution of each clip's motion map
    [B, T, H, W]. Returns int64 raster numbers of origins, shaped like ``draws``; with strength 0 the uniform ones.
    """
    scores = block_scores(motion, size)
    cumulative = scores.clamp(min=FLOOR).pow(strength).cumsum(1)
    chosen = torch.searchsorted(cumulative, draws.flatten(1) * cumulative[:, -1:], right=True)
    return chosen.clamp(max=scores.shape[1] - 1).view_as(draws)
