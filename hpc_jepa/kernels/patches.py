"""Patches of clips: of all tokens, or of selected tokens."""

import torch
from einops import rearrange
from torch import Tensor


def patchify(pixels: Tensor, tubelet: int, patch: int) -> Tensor:
    """Pixels [B, C, F, Hp, Wp] -> patches [B, N, C * tubelet * patch * patch], tokens in raster order."""
    return rearrange(pixels, "b c (t f) (y h) (x w) -> b (t y x) (c f h w)", f=tubelet, h=patch, w=patch)


def patches_at(pixels: Tensor, tokens: Tensor, rotations: Tensor, tubelet: int, patch: int) -> tuple[Tensor, Tensor]:
    """Patches [B, K, P] of the given tokens [B, K], and their rows [B, K, R] of a table ``rotations`` [N, R].

    Reads the pixels [B, C, F, Hp, Wp] directly: patches of other tokens are never copied. On a GPU one kernel gathers
    both. It has no gradient, so if the pixels need one, or under torch.compile, the plain form runs.
    """
    if pixels.is_cuda and not pixels.requires_grad and not torch.compiler.is_compiling():
        from hpc_jepa.kernels.triton.patches import patches_at_triton  # Triton comes with CUDA builds only

        return patches_at_triton(pixels, tokens, rotations, tubelet, patch)
    return plain_patches_at(pixels, tokens, rotations, tubelet, patch)


def plain_patches_at(
    pixels: Tensor, tokens: Tensor, rotations: Tensor, tubelet: int, patch: int
) -> tuple[Tensor, Tensor]:
    """:func:`patches_at` by copies of ``patch`` adjacent pixels."""
    clips, channels, frames, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    # torch.unravel_index imports the symbolic shapes of torch.compile, and SymPy with them.
    time, row, column = tokens // (rows * columns), tokens // columns % rows, tokens % columns
    clip = torch.arange(clips, device=tokens.device).unsqueeze(1)
    first = ((clip * channels * frames + time * tubelet) * height + row * patch) * columns + column
    channel, frame, line = (torch.arange(count, device=tokens.device) for count in (channels, tubelet, patch))
    inside = ((channel[:, None, None] * frames + frame[:, None]) * height + line) * columns
    pieces = (first.unsqueeze(2) + inside.flatten()).flatten()
    patches = pixels.reshape(-1, patch).index_select(0, pieces)
    return patches.view(clips, tokens.shape[1], -1), rotations[tokens]
