"""The video vision transformer: student and EMA target."""

import torch
from torch import Tensor, nn

from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.latents import TokenGrid, gather_tokens
from hpc_jepa.models.block import NORM_EPS, stack
from hpc_jepa.models.embeddings import ModalityEmbedding, PatchEmbedding, patchify
from hpc_jepa.models.initialisation import initialise
from hpc_jepa.models.rotary import rotations


class Encoder(nn.Module):
    """Pixels to token features, read out after several blocks, each level through its own LayerNorm."""

    def __init__(self, config: EncoderConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        blocks = stack(config, activation_checkpointing)
        self.config = config
        self.patch_embedding = PatchEmbedding(config.width, config.tubelet, config.patch)
        self.modality = ModalityEmbedding(config.width)
        self.blocks = nn.ModuleList(blocks)
        self.level_norms = nn.ModuleList(nn.LayerNorm(config.width, eps=NORM_EPS) for _ in config.levels)
        initialise(self, blocks)

    def forward(self, patches: Tensor, grid: TokenGrid, tokens: Tensor | None = None) -> Tensor:
        """Training latent [B, N, D] of the patches [B, N, P] of a clip; fp32, all levels side by side, shallow first.

        With ``tokens`` [B, K] the blocks see those tokens alone, at their own positions: [B, K, D].
        """
        levels = self._levels(patches, grid, tokens)
        return torch.cat([norm(x.float()) for norm, x in zip(self.level_norms, levels, strict=True)], dim=-1)

    def encode(self, pixels: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Training latent of clips [B, 3, F, Hp, Wp]: [B, N, D], or [B, K, D] at ``tokens``."""
        return self(self.patchify(pixels), self.grid(pixels), tokens)  # type: ignore[no-any-return]

    def evaluate(self, pixels: Tensor) -> Tensor:
        """Features [B, N, width] of the last level alone, as frozen evaluation reads them; fp32."""
        last = self._levels(self.patchify(pixels), self.grid(pixels))[-1]
        return self.level_norms[-1](last.float())  # type: ignore[no-any-return]

    def patchify(self, pixels: Tensor) -> Tensor:
        """Clips [B, 3, F, Hp, Wp] -> patches [B, N, P]: done once a step, whoever reads them."""
        return patchify(pixels, min(self.config.tubelet, pixels.shape[2]), self.config.patch)

    def grid(self, pixels: Tensor) -> TokenGrid:
        """Token grid of clips [B, 3, F, Hp, Wp]; a clip shorter than a tubelet is an image."""
        frames, height, width = pixels.shape[2:]
        time, image = max(1, frames // self.config.tubelet), frames < self.config.tubelet
        return TokenGrid(time, height // self.config.patch, width // self.config.patch, image)

    def _levels(self, patches: Tensor, grid: TokenGrid, tokens: Tensor | None = None) -> list[Tensor]:
        """Residual stream after each block of ``config.levels``, before its norm."""
        rotation = rotations(grid, self.config.width // self.config.heads, patches.device, self.config.rotary)
        if tokens is None:
            rotation = rotation[None, None]
        else:
            rotation = rotation[tokens].unsqueeze(1)
            patches = gather_tokens(patches, tokens)
        x = self.modality(self.patch_embedding(patches, grid.image), grid.image)
        levels = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, rotation)
            if number in self.config.levels:
                levels.append(x)
        return levels
