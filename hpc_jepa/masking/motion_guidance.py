"""Motion guidance: blocks are placed on moving regions, so that motion must be predicted."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hpc_jepa.errors import InputError
from hpc_jepa.kernels.motion import average_motion, block_scores
from hpc_jepa.types import BlockSize, TokenGrid

MIN_MOTION = 1e-6
"""Lower bound of motion; blocks of a clip without motion are placed uniformly."""


def motion_map(
    pixels: Tensor, grid: TokenGrid, pool: Literal["trilinear", "area"], norm: Literal["tubelet", "clip"]
) -> Tensor:
    """Motion of every token: clips [B, C, F, Hp, Wp] -> [B, T, H, W], zero for a clip of one frame.

    The absolute frame difference, averaged over channels, with the second frame's value for the first frame. pool: mean
    of each tubelet-patch (``area``), or interpolation without antialiasing (``trilinear``, B10). norm: divide by the
    maximum of the clip (``clip``), or divide tubelet t of all clips by the maximum of clip t (``tubelet``, B24).

    Raises InputError for norm ``tubelet`` if the number of clips is not the number of tubelets.
    """
    if pixels.shape[2] < 2:
        return pixels.new_zeros(len(pixels), grid.time, grid.height, grid.width)
    motion = average_motion(pixels, grid) if pool == "area" else _interpolated(pixels, grid)
    maxima = motion.amax((1, 2, 3)).clamp(min=MIN_MOTION)
    if norm == "clip":
        return motion / maxima[:, None, None, None]
    if len(motion) != grid.time:
        raise InputError(
            f"semantics.motion_norm: 'tubelet' divides tubelet t by the maximum of clip t and needs as many clips per "
            f"process ({len(motion)}) as tubelets ({grid.time}); change engine.batch_size or set motion_norm to 'clip'"
        )
    return motion / maxima[None, :, None, None]


def _interpolated(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Frame differences [B, T, H, W] by linear interpolation; on a CPU in cache-sized parts of a few clips."""
    parts = torch.split(pixels, 4 if pixels.device.type == "cpu" else len(pixels))
    change = torch.cat([_centre_pixels(part, grid).diff(dim=4).abs_().mean((1, 2, 3)) for part in parts])
    change = torch.cat([change[:, :1], change], dim=1).unsqueeze(1)
    size = (grid.time, grid.height, grid.width)
    return F.interpolate(change, size=size, mode="trilinear", align_corners=False).squeeze(1)


def _centre_pixels(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Clips [B, C, F, Hp, Wp] -> [B, 2, 2, C, F, H, W], the two by two pixels around the centre of every patch.

    Linear interpolation reads only these four if the sides of patches are even. Otherwise it needs all pixels:
    [B, 1, 1, C, F, Hp, Wp].
    """
    rows, columns = pixels.shape[3] // grid.height, pixels.shape[4] // grid.width
    if rows % 2 or columns % 2:
        return pixels[:, None, None]
    from_first_centre = pixels[..., rows // 2 - 1 :, columns // 2 - 1 :]
    centres = from_first_centre.unfold(3, 2, rows).unfold(4, 2, columns)
    return centres.movedim((-2, -1), (1, 2)).contiguous()


def _cumulative_sum(x: Tensor) -> Tensor:
    """Running sums along the last axis of [B, N]; on a GPU PyTorch has no deterministic ``cumsum`` of floats."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return x @ x.new_ones(x.shape[1], x.shape[1]).triu()
    return x.cumsum(1)


def guided_origins(draws: Tensor, motion: Tensor, size: BlockSize, strength: float) -> Tensor:
    """Block origins with probability proportional to max(mean motion inside the block, 1e-6)^strength.

    draws: [B, ...] uniform in [0, 1), mapped through the inverse cumulative distribution of each clip. motion:
    [B, T, H, W]. Returns raster indices of origins, int64 shaped like ``draws``; with strength 0 the uniform origins.
    """
    scores = block_scores(motion, size)
    cumulative = _cumulative_sum(scores.clamp(min=MIN_MOTION).pow(strength))
    chosen = torch.searchsorted(cumulative, draws.flatten(1) * cumulative[:, -1:], right=True)
    return chosen.clamp(max=scores.shape[1] - 1).view_as(draws)
