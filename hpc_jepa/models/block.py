"""The transformer block of encoder and predictor: multi-head attention and MLP, and their initialisation."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.models.rotary import rotate

NORM_EPS = 1e-6
WEIGHT_STD = 0.02


class Attention(nn.Module):
    """Full bidirectional attention; queries and keys are rotated by their token's position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor, groups: Sequence[int]) -> Tensor:
        """Features [B, N, width] and rotations [B or 1, 1, N, head_width (/ 2), 2] -> [B, N, width].

        groups: numbers of tokens that add up to N; tokens attend only within their group.
        """
        qkv = rearrange(self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        value = qkv[2]
        query, key = rotate(qkv[:2], rotation).to(value.dtype)
        parts = zip(*(x.split(groups, dim=2) for x in (query, key, value)), strict=True)
        attended = [rearrange(F.scaled_dot_product_attention(*part), "b heads n d -> b n (heads d)") for part in parts]
        return self.proj(torch.cat(attended, dim=1) if len(attended) > 1 else attended[0])  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection.

    ``recompute``: activation checkpointing. In training only the block's input is kept and the block runs again in the
    backward pass.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, round(width * mlp_ratio), width)

    def forward(self, x: Tensor, rotation: Tensor, groups: Sequence[int]) -> Tensor:
        """Features [B, N, width] and rotations [B or 1, 1, N, head_width (/ 2), 2] -> [B, N, width].

        groups: numbers of tokens that add up to N; tokens attend only within their group.
        """
        if self.recompute and self.training and x.requires_grad:
            return checkpoint(self._transform, x, rotation, groups, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
        return self._transform(x, rotation, groups)

    def _transform(self, x: Tensor, rotation: Tensor, groups: Sequence[int]) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation, groups)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


def exclude_cudnn_attention() -> None:
    """Let PyTorch choose among flash, memory-efficient and plain attention on a GPU, in this process from now on.

    PyTorch prefers cuDNN on Hopper and Blackwell. cuDNN builds an execution plan for every new number of tokens, tens
    of milliseconds each for forward and backward pass, and keeps it. Masks bring hundreds of such numbers in a run.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def build_blocks(config: EncoderConfig | PredictorConfig, recompute: bool) -> list[Block]:
    """The blocks of one network, first to last."""
    return [Block(config.width, config.heads, config.mlp_ratio, recompute) for _ in range(config.depth)]


@torch.no_grad()
def init_weights(network: nn.Module, blocks: Iterable[Block]) -> None:
    """Draw the weights of ``network`` from torch's global random state.

    The two projections of block i (from 1) that end in the residual stream are scaled by 1 / sqrt(2 i), so that the
    stream does not grow with depth.
    """
    network.apply(_init_layer)
    for number, block in enumerate(blocks, start=1):
        block.attn.proj.weight.div_(math.sqrt(2 * number))
        block.mlp.fc2.weight.div_(math.sqrt(2 * number))


def _init_layer(layer: nn.Module) -> None:
    """Linear layers and convolutions N(0, 0.02), biases 0; norms keep gain 1 and bias 0.

    The published truncation at +-2 is a hundred standard deviations away and is omitted.
    """
    if isinstance(layer, nn.Linear | nn.Conv3d):
        nn.init.normal_(layer.weight, std=WEIGHT_STD)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
