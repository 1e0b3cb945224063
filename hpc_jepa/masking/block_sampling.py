"""Size and position of mask blocks."""

import math

import torch
from torch import Tensor

from hpc_jepa.config.masking import MaskGroupConfig
from hpc_jepa.errors import InputError
from hpc_jepa.types import BlockSize, TokenGrid


def block_size(group: MaskGroupConfig, grid: TokenGrid, step: int) -> BlockSize:
    """Size of every block of a mask group in a step, for all clips and processes.

    Follows V-JEPA's multi-block masking: a generator seeded with the step draws one uniform number each for time, area
    and aspect ratio. The scales are fixed here, so only the aspect ratio varies.
    """
    generator = torch.Generator().manual_seed(step)
    _, _, aspect_draw = torch.rand(3, generator=generator).tolist()
    low, high = group.aspect
    aspect = low + aspect_draw * (high - low)
    area = int(grid.cells * group.spatial_scale)
    time = max(1, int(grid.time * group.temporal_scale))
    height = min(grid.height, max(1, round(math.sqrt(area * aspect))))
    width = min(grid.width, max(1, round(math.sqrt(area / aspect))))
    return time, height, width


def uniform_origins(draws: Tensor, size: BlockSize, grid: TokenGrid) -> Tensor:
    """Uniform draws in [0, 1) -> raster indices of block origins, int64 of the same shape."""
    return (draws * math.prod(grid.origin_counts(size))).long()


def visible_tubelets(group: MaskGroupConfig, grid: TokenGrid) -> int:
    """Number of leading tubelets that the context may use."""
    return max(1, int(grid.time * group.temporal_keep))


def empty_context_error(size: BlockSize, grid: TokenGrid, group: MaskGroupConfig) -> InputError:
    """The error for a single block that hides everything the context may use."""
    return InputError(
        f"masking.groups: one block of {size[0]}x{size[1]}x{size[2]} tokens hides the whole context of a "
        f"{grid.time}x{grid.height}x{grid.width} grid; lower spatial_scale ({group.spatial_scale}) or raise "
        f"temporal_keep ({group.temporal_keep})"
    )
