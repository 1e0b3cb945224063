"""A frozen encoder as a feature extractor, with normalisation of its input."""

import torch
from torch import Tensor, nn

from hpc_jepa.errors import InputError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.types import TokenGrid

UNNORMALISED = (-0.5, 1.5)
"""Range of float pixels before normalisation: 0 to 1, with room for resampling filters that overshoot."""


class FeatureExtractor(nn.Module):
    """Clips [B, 3, F, H, W] to token features [B, N, D]: evaluation mode, fp32, no gradients.

    width: D. levels: 1-based blocks that ``forward_levels`` returns. patch, tubelet: size of a token in pixels and
    frames. mean, std: buffers [3, 1, 1, 1] that normalise pixels in the range 0 to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.encoder = encoder.float()
        self.width, self.levels = encoder.config.width, encoder.config.levels
        self.patch, self.tubelet = encoder.config.patch, encoder.config.tubelet
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, clips: Tensor, normalise: bool = True) -> Tensor:
        """Features [B, N, width] of the last level; N = F/tubelet * H/patch * W/patch, by time, row, column.

        clips: [B, 3, F, H, W], integers from 0 to 255 or floats from 0 to 1; F = 1 is an image. normalise: False for
        floats that are already ``(x - mean) / std``. Raises InputError for other shapes and ranges.
        """
        return self.encoder.forward_features(self._prepare(clips, normalise))

    @torch.no_grad()
    def forward_levels(self, clips: Tensor, normalise: bool = True) -> Tensor:
        """Features [B, N, len(levels) * width] of all levels, shallow first; arguments as in ``forward``."""
        return self.encoder(self._prepare(clips, normalise))  # type: ignore[no-any-return]

    def token_grid(self, clips: Tensor) -> TokenGrid:
        """Time, rows and columns of the N tokens of ``clips``."""
        return self.encoder.grid(clips)

    def _prepare(self, clips: Tensor, normalise: bool) -> Tensor:
        patch, tubelet = self.patch, self.tubelet
        divisible = clips.ndim == 5 and clips.shape[1] == 3 and not any(side % patch for side in clips.shape[3:])
        if not divisible or (clips.shape[2] >= tubelet and clips.shape[2] % tubelet):
            raise InputError(
                f"clips of shape {list(clips.shape)}: expected [B, 3, F, H, W] with F a multiple of {tubelet}, "
                f"H and W of {patch}"
            )
        if not normalise:
            return clips.float()
        pixels = clips.float() if clips.is_floating_point() else clips / 255
        low, high = pixels.aminmax()
        if low < UNNORMALISED[0] or high > UNNORMALISED[1]:
            raise InputError(
                f"float clips with values from {low:.3g} to {high:.3g}: expected 0 to 1; give uint8 clips, or "
                "normalise=False if they are normalised already"
            )
        return (pixels - self.mean) / self.std
