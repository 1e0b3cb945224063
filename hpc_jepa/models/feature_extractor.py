"""An encoder to use, not to train."""

import torch
from torch import Tensor, nn

from hpc_jepa.errors import InputError
from hpc_jepa.models.encoder import Encoder


class FeatureExtractor(nn.Module):
    """Clips to token features: in evaluation mode, fp32, without gradients.

    A clip is normalised as in training, ``(x / 255 - mean) / std`` with ``mean`` and ``std`` of three channels each.
    """

    def __init__(self, encoder: Encoder, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.encoder = encoder.float()
        self.mean = mean
        self.std = std
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised clips [B, 3, F, H, W] -> features [B, N, D], tokens in the order time, row, column.

        N = F/tubelet * H/patch * W/patch; F = 1 is an image. Raises InputError where a clip is not of whole tokens.
        """
        config = self.encoder.config
        frames, patch = config.tubelet, config.patch
        whole = pixels.ndim == 5 and pixels.shape[1] == 3 and not any(side % patch for side in pixels.shape[3:])
        if not whole or (pixels.shape[2] >= frames and pixels.shape[2] % frames):
            raise InputError(
                f"pixels of shape {list(pixels.shape)} do not fit: give [B, 3, F, H, W] with F a multiple of {frames}, "
                f"H and W of {patch}"
            )
        return self.encoder.forward_features(pixels.float())
