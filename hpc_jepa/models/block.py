"""The transformer block that encoder and predictor share."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.models.attention import Attention

NORM_EPS = 1e-6


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.output(F.gelu(self.hidden(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and MLP, each beside a residual path.

    ``recompute``: while training, keep only the block's input and run it again in the backward pass.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, round(width * mlp_ratio), width)

    def forward(self, x: Tensor, rotation: Tensor, groups: Sequence[int]) -> Tensor:
        """Features [B, N, width] and rotations [B or 1, 1, N, head_width (/ 2), 2] -> [B, N, width].

        groups: numbers of tokens, N together; tokens of a group attend to each other alone.
        """
        if self.recompute and self.training and x.requires_grad:
            return checkpoint(self._transform, x, rotation, groups, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
        return self._transform(x, rotation, groups)

    def _transform(self, x: Tensor, rotation: Tensor, groups: Sequence[int]) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, groups)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


def build_blocks(config: EncoderConfig | PredictorConfig, recompute: bool) -> list[Block]:
    """The blocks of one network, first to last."""
    return [Block(config.width, config.heads, config.mlp_ratio, recompute) for _ in range(config.depth)]
