"""The video vision transformer of student and EMA target."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.kernels.casts import is_sharded
from hpc_jepa.kernels.layer_norm import level_norms
from hpc_jepa.kernels.patches import patches_at, patchify
from hpc_jepa.models.block import NORM_EPS, build_blocks, cast_blocks, init_weights
from hpc_jepa.models.embeddings import ModalityEmbedding, PatchEmbedding
from hpc_jepa.models.rotary import rotations
from hpc_jepa.types import TokenGrid


class Encoder(nn.Module):
    """Pixels to token features of several levels: outputs of chosen blocks, each with its own LayerNorm.

    Norms of other blocks (``norm_blocks``) are kept for released files; they are unused and frozen.
    """

    def __init__(self, config: EncoderConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        blocks = build_blocks(config, activation_checkpointing)
        self.config = config
        self.patch_embedding = PatchEmbedding(config.width, config.tubelet, config.patch)
        self.modality = ModalityEmbedding(config.width)
        self.blocks = nn.ModuleList(blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width, eps=NORM_EPS) for _ in config.normed)
        for block, norm in zip(config.normed, self.norms, strict=True):
            norm.requires_grad_(block in config.levels)
        init_weights(self, blocks)

    def forward(self, pixels: Tensor, tokens: Tensor | None = None, groups: Sequence[int] | None = None) -> Tensor:
        """Training latent [B, N, D] of clips [B, 3, F, Hp, Wp] in fp32: all levels concatenated, shallow first.

        tokens: [B, K], encode only these tokens, at their positions: [B, K, D].
        groups: numbers of tokens that add up to K; tokens attend only within their group, so that one pass encodes the
        contexts of several mask groups.
        """
        levels = self._levels(pixels, tokens, groups)
        norms = [self.norms[self.config.normed.index(level)] for level in self.config.levels]
        if any(is_sharded(p) for p in self.norms.parameters()):
            return torch.cat([norm(x.float()) for norm, x in zip(norms, levels, strict=True)], dim=-1)
        weights, biases = zip(*((norm.weight, norm.bias) for norm in norms), strict=True)
        return level_norms(levels, weights, biases, NORM_EPS)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Features [B, N, width] of the last level in fp32, as used in frozen evaluation."""
        last = self._levels(pixels)[-1]
        return self.norms[-1](last.float())  # type: ignore[no-any-return]

    def grid(self, pixels: Tensor) -> TokenGrid:
        """Token grid of clips [B, 3, F, Hp, Wp]; clips shorter than a tubelet are images."""
        frames, height, width = pixels.shape[2:]
        time, image = max(1, frames // self.config.tubelet), frames < self.config.tubelet
        return TokenGrid(time, height // self.config.patch, width // self.config.patch, image)

    def _levels(
        self, pixels: Tensor, tokens: Tensor | None = None, groups: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Residual stream after each block in ``config.levels``, before its norm."""
        grid, tubelet, patch = self.grid(pixels), min(self.config.tubelet, pixels.shape[2]), self.config.patch
        rotation = rotations(grid, self.config.width // self.config.heads, pixels.device, self.config.rotary)
        if tokens is None:
            patches, rotation = patchify(pixels, tubelet, patch), rotation[None]
        else:
            patches, rotation = patches_at(pixels, tokens, rotation, tubelet, patch)
        rotation = torch.view_as_real(rotation.unsqueeze(1))
        x = self.modality(self.patch_embedding(patches, grid.image), grid.image)
        levels = []
        copies = cast_blocks(list(self.blocks), x)  # type: ignore[arg-type]
        for number, (block, of_block) in enumerate(zip(self.blocks, copies, strict=True), start=1):
            x = block(x, rotation, groups or [x.shape[1]], of_block)
            if number in self.config.levels:
                levels.append(x)
        return levels
