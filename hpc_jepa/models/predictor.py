"""The narrow transformer that predicts target latents from context latents."""

import torch
from torch import Tensor, nn

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.latents import TokenGrid, TokenMasks
from hpc_jepa.models.block import MLP, NORM_EPS, stack
from hpc_jepa.models.embeddings import MaskTokens, ModalityEmbedding
from hpc_jepa.models.initialisation import initialise
from hpc_jepa.models.rotary import rotations


class Predictor(nn.Module):
    """Context features and mask tokens through a few blocks, then one linear head for each kind of token."""

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        blocks = stack(config, activation_checkpointing)
        self.head_width = config.width // config.heads
        self.input = MLP(encoder.latent_width, encoder.width, config.width)
        self.mask_tokens = MaskTokens(config.width, config.mask_tokens)
        self.modality = ModalityEmbedding(config.width)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.target_head = nn.Linear(config.width, encoder.latent_width)
        self.context_head = nn.Linear(config.width, encoder.latent_width)
        initialise(self, blocks)

    def forward(self, context_features: Tensor, masks: TokenMasks, grid: TokenGrid) -> tuple[Tensor, Tensor]:
        """Context features [B, K, D] -> predictions at target [B, Q, D] and at context tokens [B, K, D].

        Tokens stand as they come, context before targets: attention knows them by their rotation, not their order.
        """
        x = self.input(context_features)
        x = self.modality(torch.cat([x, self.mask_tokens(masks.target).to(x.dtype)], dim=1), grid.image)
        tokens = torch.cat([masks.context, masks.target], dim=1)
        rotation = torch.view_as_real(rotations(grid, self.head_width, x.device)[tokens].unsqueeze(1))
        for block in self.blocks:
            x = block(x, rotation)
        context, target = self.norm(x).split([masks.context.shape[1], masks.target.shape[1]], dim=1)
        return self.target_head(target), self.context_head(context)
