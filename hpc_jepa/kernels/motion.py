"""Motion of a clip: per tubelet-patch, and per mask block."""

import torch
from torch import Tensor

from hpc_jepa.types import BlockSize, TokenGrid


def average_motion(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Mean absolute frame difference of each tubelet-patch: [B, C, F, Hp, Wp] -> [B, T, H, W] float32.

    The first frame gets the difference of the second. F >= 2; the clip size must be a multiple of the grid.
    """
    if pixels.is_cuda:
        from hpc_jepa.kernels.triton.motion import average_motion_triton  # Triton comes with CUDA builds only

        return average_motion_triton(pixels, grid)
    return plain_average_motion(pixels, grid)


def plain_average_motion(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """:func:`average_motion` in PyTorch, one channel of a clip at a time.

    ``cdist`` with p=1 is the only PyTorch operation that subtracts, takes absolute values and sums in one pass over
    memory; here the rows are one pixel row of a patch in consecutive frames.
    """
    clips, channels, frames, height, width = pixels.shape
    patch_row = width // grid.width
    frame = height * grid.width  # rows of patches in a frame
    rows = pixels.reshape(clips * channels, frames * frame, 1, patch_row)
    change = torch.stack([torch.cdist(x[frame:], x[:-frame], p=1.0) for x in map(Tensor.float, rows.unbind(0))])
    of_patch = change.view(clips, channels, frames - 1, grid.height, -1, grid.width).sum((1, 4))
    of_patch = torch.cat([of_patch[:, :1], of_patch], dim=1)
    pixels_of_tubelet_patch = pixels[0].numel() // grid.tokens
    return of_patch.view(clips, grid.time, -1, grid.height, grid.width).sum(2) / pixels_of_tubelet_patch


def block_scores(motion: Tensor, size: BlockSize) -> Tensor:
    """Mean motion inside a block at every possible origin: [B, T, H, W] -> [B, origins] float64, in raster order."""
    if motion.is_cuda:
        from hpc_jepa.kernels.triton.motion import block_scores_triton  # Triton comes with CUDA builds only

        return block_scores_triton(motion, size)
    return plain_block_scores(motion, size)


def plain_block_scores(motion: Tensor, size: BlockSize) -> Tensor:
    """:func:`block_scores` in PyTorch: means along one axis after the other."""
    scores = motion.double()
    for axis, length in enumerate(size, start=1):
        scores = scores.unfold(axis, length, 1).mean(-1)
    return scores.flatten(1)
