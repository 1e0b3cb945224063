"""Motion guidance: blocks prefer to lie where the clip moves, so that motion is predicted rather than seen."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from hpc_jepa.errors import InputError
from hpc_jepa.kernels.blocks import BlockSize
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
    """Frame differences averaged over every tubelet-patch.

    Memory is the limit: one row of patches of two frames at a time stays in the cache, so that pixels are read once.
    """
    bands = torch.stack([_change_of_columns(band) for band in pixels.tensor_split(grid.height, dim=3)], dim=2)
    bands = torch.cat([bands[:, :1], bands], dim=1)
    return reduce(bands, "b (t f) y (x w) -> b t y x", "mean", t=grid.time, x=grid.width)


def _change_of_columns(band: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames in each pixel column: [B, C, F, h, W] -> [B, F-1, W]."""
    frames = band.unbind(2)
    change = torch.empty_like(frames[0], memory_format=torch.contiguous_format)
    return torch.stack([torch.sub(b, a, out=change).abs_().mean((1, 2)) for a, b in pairwise(frames)], dim=1)


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
    scores = F.avg_pool3d(motion.double().unsqueeze(1), kernel_size=size, stride=1).flatten(1)
    cumulative = scores.clamp(min=FLOOR).pow(strength).cumsum(1)
    chosen = torch.searchsorted(cumulative, draws.flatten(1) * cumulative[:, -1:], right=True)
    return chosen.clamp(max=scores.shape[1] - 1).view_as(draws)
