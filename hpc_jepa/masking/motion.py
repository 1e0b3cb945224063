"""Motion guidance: blocks prefer to lie where the clip moves, so that motion is predicted rather than seen."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from hpc_jepa.errors import InputError
from hpc_jepa.latents import TokenGrid
from hpc_jepa.masking.blocks import BlockSize

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
    motion = _averaged(pixels, grid) if pool == "area" else _interpolated(pixels, grid)
    maxima = motion.amax((1, 2, 3)).clamp(min=FLOOR)
    if norm == "clip":
        return motion / maxima[:, None, None, None]
    if len(motion) != grid.time:
        raise InputError(
            f"semantics.motion_norm: 'tubelet' divides tubelet t by the maximum of clip t and needs as many clips per "
            f"process ({len(motion)}) as tubelets ({grid.time}); change engine.batch_size or set motion_norm to 'clip'"
        )
    return motion / maxima[None, :, None, None]


def _averaged(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Frame differences averaged over every tubelet-patch; frame by frame and in place: memory is the limit here."""
    frames = pixels.unbind(2)
    change = torch.empty_like(frames[0])
    pooled = [
        reduce(torch.sub(b, a, out=change).abs_(), "b c (y h) (x w) -> b y x", "mean", y=grid.height, x=grid.width)
        for a, b in pairwise(frames)
    ]
    change = torch.stack([pooled[0], *pooled], dim=1)
    return reduce(change, "b (t f) y x -> b t y x", "mean", t=grid.time)


def _interpolated(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Frame differences resized to the grid, from the few pixels that count in it.

    With patches of even side, linear interpolation averages the two by two pixels around the centre of each patch.
    """
    rows, columns = pixels.shape[-2] // grid.height, pixels.shape[-1] // grid.width
    if rows % 2 == 0 and columns % 2 == 0:
        patches = rearrange(pixels, "b c f (y h) (x w) -> b c f y h x w", h=rows, w=columns)
        pixels = patches.narrow(4, rows // 2 - 1, 2).narrow(6, columns // 2 - 1, 2).flatten(5).flatten(3, 4)
    change = pixels.diff(dim=2).abs_().mean(1)
    change = torch.cat([change[:, :1], change], dim=1).unsqueeze(1)
    size = (grid.time, grid.height, grid.width)
    return F.interpolate(change, size=size, mode="trilinear", align_corners=False).squeeze(1)


def guided_origins(draws: Tensor, motion: Tensor, size: BlockSize, strength: float) -> Tensor:
    """Block origins with probability proportional to max(mean motion inside the block, 1e-6)^strength.

    ``draws`` [B, ...] uniform in [0, 1) are put through the inverse cumulative distribution of each clip's motion map
    [B, T, H, W]. Returns int64 raster numbers of origins, shaped like ``draws``; with strength 0 the uniform ones.
    """
    scores = F.avg_pool3d(motion.double().unsqueeze(1), kernel_size=size, stride=1).flatten(1)
    cumulative = scores.clamp(min=FLOOR).pow(strength).cumsum(1)
    chosen = torch.searchsorted(cumulative, draws.flatten(1) * cumulative[:, -1:], right=True)
    return chosen.clamp(max=scores.shape[1] - 1).view_as(draws)
