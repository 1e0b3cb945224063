"""Motion guidance: blocks prefer to lie where the clip moves, so that motion is predicted rather than seen."""

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
    """Frame differences resized to the grid, from the few pixels that count in it.

    With patches of even side, linear interpolation averages the two by two pixels around the centre of each patch.
    """
    height, width = pixels.shape[-2:]
    rows, columns = height // grid.height, width // grid.width
    if rows % 2 == 0 and columns % 2 == 0:
        places = _centres(height, rows, pixels.device)[:, None] * width + _centres(width, columns, pixels.device)
        centres = pixels.reshape(-1, height * width).index_select(1, places.flatten())
        pixels = centres.view(*pixels.shape[:3], *places.shape)
    change = pixels.diff(dim=2).abs_().mean(1)
    change = torch.cat([change[:, :1], change], dim=1).unsqueeze(1)
    size = (grid.time, grid.height, grid.width)
    return F.interpolate(change, size=size, mode="trilinear", align_corners=False).squeeze(1)


def _centres(side: int, patch: int, device: torch.device) -> Tensor:
    """The middle two pixels of every patch along a side of the clip, ascending."""
    pixel = torch.arange(side, device=device)
    return pixel.view(-1, patch)[:, patch // 2 - 1 : patch // 2 + 1].flatten()


def guided_origins(draws: Tensor, motion: Tensor, size: BlockSize, strength: float) -> Tensor:
    """Block origins with probability proportional to max(mean motion inside the block, 1e-6)^strength.

    ``draws`` [B, ...] uniform in [0, 1) are put through the inverse cumulative distribution of each clip's motion map
    [B, T, H, W]. Returns int64 raster numbers of origins, shaped like ``draws``; with strength 0 the uniform ones.
    """
    scores = block_scores(motion, size)
    cumulative = scores.clamp(min=FLOOR).pow(strength).cumsum(1)
    chosen = torch.searchsorted(cumulative, draws.flatten(1) * cumulative[:, -1:], right=True)
    return chosen.clamp(max=scores.shape[1] - 1).view_as(draws)
