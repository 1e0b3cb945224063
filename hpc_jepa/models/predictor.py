"""The narrow transformer that predicts target latents from context latents."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.kernels.casts import cast_layers
from hpc_jepa.models.block import MLP, Copies, LayerNorm, Linear, build_blocks, init_weights
from hpc_jepa.models.embeddings import MaskTokens, ModalityEmbedding
from hpc_jepa.models.rotary import rotations
from hpc_jepa.types import TokenGrid, TokenMasks


class Predictor(nn.Module):
    """Maps context features and mask tokens through a few blocks and one linear head per kind of token."""

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        blocks = build_blocks(config, activation_checkpointing)
        self.head_width = config.width // config.heads
        latent = encoder.latent_width
        self.embed: MLP | Linear = (
            Linear(latent, config.width) if config.embed == "linear" else MLP(latent, encoder.width, config.width)
        )
        self.mask_tokens = MaskTokens(config.width, config.mask_tokens)
        self.modality = ModalityEmbedding(config.width)
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(config.width)
        self.target_head = Linear(config.width, encoder.latent_width)
        self.context_head = Linear(config.width, encoder.latent_width)
        init_weights(self, blocks)

    def forward(
        self, context_features: Sequence[Tensor], masks: Sequence[TokenMasks], grid: TokenGrid
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Context features [B, K, D] of each group -> predictions at target [B, Q, D] and at context tokens [B, K, D].

        One pass for all groups; tokens attend only within their group. Tokens are ordered context before target, not by
        position: attention takes positions from the rotations.
        """
        tokens = [tokens for group in masks for tokens in (group.context, group.target)]
        sizes = [part.shape[1] for part in tokens]
        groups = [context + target for context, target in zip(sizes[::2], sizes[1::2], strict=True)]
        embedding = (self.embed.fc1, self.embed.fc2) if isinstance(self.embed, MLP) else (self.embed,)
        layers = (*embedding, self.target_head, self.context_head)
        *embed, target_head, context_head = cast_layers(layers, context_features[0])
        inputs = [self._tokens(*group, embed) for group in zip(context_features, masks, strict=True)]
        x = self.modality(torch.cat([part for group in inputs for part in group], dim=1), grid.image)
        rotation = torch.view_as_real(rotations(grid, self.head_width, x.device)[torch.cat(tokens, 1)].unsqueeze(1))
        for block in self.blocks:
            x = block(x, rotation, groups)
        _, normed = self.norm(x)
        parts = normed.split(sizes, dim=1)
        return tuple(
            (self.target_head(target, target_head), self.context_head(context, context_head))
            for context, target in zip(parts[::2], parts[1::2], strict=True)
        )

    def _tokens(self, context_features: Tensor, masks: TokenMasks, copies: Copies) -> tuple[Tensor, Tensor]:
        """Input embeddings of the context [B, K, width] and target tokens [B, Q, width] of a group."""
        context = self.embed(context_features, copies if isinstance(self.embed, MLP) else copies[0])
        return context, self.mask_tokens(masks.target).to(context.dtype)
